"""What a checkpoint expects of the loop around it: one YAML file a family, each value with its source.

A value of null means that nothing is expected and nothing is checked. See docs/profiles.md.
"""

from vladoctor.profiles.files import UNKNOWN, Key, is_file_name, load_profile, profile_keys, profile_names
from vladoctor.profiles.find import ENVIRONMENTS, environment_profile, find_profile
from vladoctor.profiles.profile import Profile

__all__ = [
    "ENVIRONMENTS",
    "UNKNOWN",
    "Key",
    "Profile",
    "environment_profile",
    "find_profile",
    "is_file_name",
    "load_profile",
    "profile_keys",
    "profile_names",
]
