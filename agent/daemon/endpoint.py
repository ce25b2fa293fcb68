"""The device's connection, as its configuration says."""

import ssl

from agent.config.load import Config
from agent.core.errors import ConfigError
from agent.mqtt.endpoint import Endpoint, Will, tls_context
from agent.protocol.messages import Topics


def endpoint(config: Config) -> Endpoint:
    """Return what a connection needs to know; raises ConfigError."""
    mqtt = config.agent.mqtt
    made = Endpoint(
        url=mqtt.url,
        client_id=config.client_id,
        login=config.login(),
        version=5 if mqtt.version in {5, "5"} else 4,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        keepalive_s=mqtt.keepalive_s,
        session_expiry_s=mqtt.session_expiry_s,
        max_inflight=mqtt.max_inflight,
        max_packet_bytes=mqtt.max_packet_bytes,
        will=Will(Topics(config.agent.device.id).status, b"offline"),
    )
    if mqtt.url.startswith("mqtts:"):
        try:
            tls_context(made)
        except (OSError, ssl.SSLError) as error:
            files = [mqtt.ca_file, mqtt.cert_file, mqtt.key_file]
            names = ", ".join(str(file) for file in files if file)
            raise ConfigError(f"mqtt: TLS files {names}: {error}") from error
    return made
