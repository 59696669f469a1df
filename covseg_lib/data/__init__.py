"""01 and 02: scans become arrays. Imports neither Keras nor TensorFlow."""
