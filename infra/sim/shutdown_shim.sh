#!/bin/sh
# Stands for shutdown, poweroff, halt and systemctl on a simulated instance: tells the first process (guest_init.py).
#   shutdown -h +5 | shutdown -h now | shutdown -c | poweroff | systemctl poweroff
case "${0##*/}" in
  poweroff | halt) word=now ;;
  systemctl) case " $* " in *" poweroff "* | *" halt "*) word=now ;; *) exit 0 ;; esac ;;
  *)
    word=+1
    for argument in "$@"; do
      case "$argument" in
        -c) word=cancel ;;
        now | +*) word=$argument ;;
        0) word=now ;;
      esac
    done
    ;;
esac
echo "$word" > @POWER@
