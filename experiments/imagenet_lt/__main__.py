import sys

from experiments.imagenet_lt.experiment import main

sys.exit(main())
