"""covseg: COVID-19 lesion segmentation in chest CT. Not a medical device."""

import os

# All programs and notebooks import this package before TensorFlow or JAX. Without these two, the
# first program on a GPU takes all of its memory, and a second one, as a notebook that notebook 07
# runs, finds none.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

__version__ = "0.1.0"
