"""The benchmark. Small clusters; some tests need hosts made of namespaces."""
