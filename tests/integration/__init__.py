"""The promises of the README, one a file, on clusters of processes; often slow."""
