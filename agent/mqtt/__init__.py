"""MQTT: one connection, the link that renews it, and what both need to know."""
