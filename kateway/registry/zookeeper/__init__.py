"""The registry in ZooKeeper."""
