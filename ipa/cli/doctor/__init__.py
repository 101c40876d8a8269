"""What `ipa doctor` looks at, one module a dependency."""
