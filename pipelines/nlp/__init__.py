"""A text's language, its translation into English, its summary. The weights are the owner's."""
