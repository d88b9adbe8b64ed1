"""What tests share: values, clusters, servers, fakes. Has no tests."""
