"""The data plane: obeys the messages of `model.forwarding`, and says what it holds."""
