//! Published PyTorch files.
