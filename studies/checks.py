from halflife.kits.settings import *  # noqa: F403
