"""What the mount says of a file is asked for by name, and does not travel with copies.

    attributes.py FILE COPY
"""

import os
import subprocess
import sys

file, copy = sys.argv[1:]
os.setxattr(file, "user.mine", b"kept")
assert os.getxattr(file, "user.larder.state") in (b"clean", b"dirty", b"local")
assert os.listxattr(file) == ["user.mine"], os.listxattr(file)
subprocess.run(["cp", "--preserve=all", file, copy], check=True)
assert os.listxattr(copy) == ["user.mine"], os.listxattr(copy)
