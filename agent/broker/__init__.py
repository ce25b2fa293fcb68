"""The upstream side: cases in by MQTT, a language model asked, answers out.

For a server, installed by the extra `broker`; the device daemon never imports it.
"""
