# Clones $AETHERIUM_GIT_URL into the directory $AETHERIUM_GIT_PATH; see git.rs.
set -eu
url=$AETHERIUM_GIT_URL path=$AETHERIUM_GIT_PATH
ref=${AETHERIUM_GIT_REF-} kind=${AETHERIUM_GIT_REF_KIND-} depth=${AETHERIUM_GIT_DEPTH-}
part=$path/.aetherium-clone
mark=.git/aetherium-unfinished

fail() { printf '%s\n' "$*" >&2; exit 1; }

command -v git >/dev/null 2>&1 || exit 90
if [ -n "${AETHERIUM_GIT_SERVER-}" ]; then
    if [ -n "${AETHERIUM_GIT_CREDENTIAL-}" ]; then
        case $AETHERIUM_GIT_CREDENTIAL in
            /*) [ ! -f "$AETHERIUM_GIT_CREDENTIAL" ] || fail "the credential is a file, and $AETHERIUM_GIT_SERVER wants a token: give a git_token" ;;
        esac
        # Run by git's own shell, which reads the variables.
        helper='!f() { test "$1" = get || exit 0; printf "username=%s\npassword=%s\n" "$AETHERIUM_GIT_USER" "$AETHERIUM_GIT_CREDENTIAL"; }; f'
        git() { command git -c credential.helper= -c "credential.$AETHERIUM_GIT_SERVER.helper=$helper" "$@"; }
    fi
else
    command -v ssh >/dev/null 2>&1 || exit 91
    hosts=$(mktemp)
    trap 'rm -f "$hosts"' EXIT
    printf '%s\n' "$AETHERIUM_GIT_KNOWN_HOSTS" >"$hosts"
    ssh="ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=$hosts -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=30"
    if [ -n "${AETHERIUM_GIT_CREDENTIAL-}" ]; then
        [ -f "$AETHERIUM_GIT_CREDENTIAL" ] || fail "the credential is no file, and ssh wants a key: give an ssh_key"
        ssh="$ssh -o IdentitiesOnly=yes -i $AETHERIUM_GIT_CREDENTIAL"
    fi
    GIT_SSH_COMMAND=$ssh
    export GIT_SSH_COMMAND
fi

finish() {
    if git -C "$path" rev-parse -q --verify 'HEAD^{commit}' >/dev/null; then
        git -C "$path" reset -q --hard
        git -C "$path" log -1 --format='checked out %h %s'
    else
        echo "the repository has no commit yet"
    fi
    rm -f "$path/$mark"
}

if [ -e "$path/.git" ]; then
    there=$(git config --file "$path/.git/config" --get remote.origin.url || true)
    [ "$there" = "$url" ] || fail "$path has another repository: ${there:-one without an origin}"
    rm -rf "$part"
    if [ -e "$path/$mark" ]; then finish; else echo "it is there already"; fi
    exit 0
fi
rm -rf "$part"
[ -z "$(ls -A "$path")" ] || fail "$path is not empty"

if [ "$kind" = either ]; then
    found=0
    git ls-remote -q --exit-code -- "$url" "refs/heads/$ref" "refs/tags/$ref" >/dev/null || found=$?
    case $found in
        0) kind=name ;;
        2) kind=short ;;
        *) exit "$found" ;;
    esac
fi
case $kind in
    commit)
        git init -q "$part"
        git -C "$part" remote add origin "$url"
        # A server that hands out branches and tags alone has the commit in one of those.
        git -C "$part" fetch -q ${depth:+--depth="$depth"} origin "$ref" || git -C "$part" fetch -q --tags origin
        git -C "$part" update-ref --no-deref HEAD "$ref^{commit}"
        ;;
    short)
        git clone -q --no-checkout -- "$url" "$part"
        commit=$(git -C "$part" rev-parse -q --verify "$ref^{commit}") || fail "the repository has no branch, tag or commit $ref"
        git -C "$part" update-ref --no-deref HEAD "$commit"
        ;;
    *)
        git clone -q --no-checkout ${depth:+--depth="$depth"} ${ref:+--branch="$ref"} -- "$url" "$part"
        ;;
esac
: >"$part/$mark"
mv "$part/.git" "$path/.git"
rmdir "$part"
finish
