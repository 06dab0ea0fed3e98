from halflife.kits.starts import *  # noqa: F403
