"""What stands in messages: payloads, results, cases, prompts and topics."""
