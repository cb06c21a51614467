"""The node agent: what runs on an instance from its boot to its end. Standard library and boto3, no torch, no project code.

`pack.py` makes one file of these modules (a zip that `python3` runs), uploaded under its sha256; user data fetches it,
checks the hash and runs `python3 agent.pyz boot.json`. `__main__.py` has the phases on one page.
"""
