"""Models with an encoder: bidirectional language models, the encoder-decoder, and vision transformers."""
