"""What ``stage=audit`` looks at, what it measures, and the pictures of it."""
