"""A cloud on this machine: moto behind a wrapper that behaves where moto does not, and hosts that really boot.

    control side (launcher, CLI)  ->  server.py: AWS calls, faults, journal  ->  moto's backends
                                             |
                                      hosts.py: boots UserData in private namespaces, with a metadata service of its own

What it cannot prove is listed in docs/ec2-session.md: drivers, EFA, real capacity, real prices, IAM enforcement.
"""
