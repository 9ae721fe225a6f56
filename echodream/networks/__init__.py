"""Networks: autoencoder, denoisers, identity encoders, classifiers, feature extractors."""
