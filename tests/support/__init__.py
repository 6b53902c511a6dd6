"""What tests share: builders and the fakes that stand at the edge of a service."""
