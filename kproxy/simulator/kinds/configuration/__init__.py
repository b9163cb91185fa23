"""What applications are configured with: Secrets, ConfigMaps and ServiceAccounts."""
