from halflife.kits.elicitation import *  # noqa: F403
