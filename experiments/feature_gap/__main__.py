import sys

from experiments.feature_gap.experiment import main

sys.exit(main())
