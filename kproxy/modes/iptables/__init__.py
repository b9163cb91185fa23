"""iptables mode: chains of rules in the nat and filter tables."""
