# shellcheck shell=bash
# Sourced before the wrappers in this folder: the collection's environment.
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../../env.sh"
