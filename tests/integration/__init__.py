"""The promises of the README, one a file, on clusters of processes; often slow.

``tests/package/test_promises.py`` says which file is for which.
"""
