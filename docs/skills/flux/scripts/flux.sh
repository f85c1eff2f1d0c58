#!/usr/bin/env bash
# flux.sh: the world state from a shell. bash and curl; jq makes the output pretty where it is installed.
#
#   FLUX_URL          where the box is (default http://localhost:3000)
#   FLUX_TOKEN        token of a namespace, where publishing needs one
#   FLUX_ADMIN_TOKEN  token of the administration, for changing limits
#
# Exit status: 0 done; 1 wrong use, or the box said no (its answer is printed); 2 the box cannot be reached
# (`health` says so with 1, as it always did).
set -euo pipefail

FLUX_URL="${FLUX_URL:-http://localhost:3000}"
FLUX_URL="${FLUX_URL%/}"
PATIENCE_S="${FLUX_TIMEOUT:-30}"

usage() {
    cat <<'TEXT'
Usage: flux.sh COMMAND [ARGUMENTS]

  publish STREAM SOURCE ENTITY PROPERTIES   publish one event; PROPERTIES is a JSON object
  batch EVENTS                              publish a JSON array of events, all or none
  get ENTITY                                one entity
  list [--prefix P] [--namespace N]         entities, sorted by id
  delete ENTITY                             delete one entity
  batch-delete FILTER                       delete many: {"namespace":…}, {"prefix":…} or {"entity_ids":[…]}
  connectors                                what feeds this box
  admin-config [UPDATE]                     show limits; with UPDATE (JSON, needs FLUX_ADMIN_TOKEN) change them
  health                                    is the box there?

Examples:
  flux.sh publish sensors lab lab/lamp-1 '{"on":true,"watts":4.2}'
  flux.sh get lab/lamp-1
  flux.sh list --prefix lab/
TEXT
}

fail() {
    printf 'Error: %s\n' "$1" >&2
    exit "${2:-1}"
}

wrong_use() {
    printf 'Usage: flux.sh %s\n' "$1" >&2
    exit 1
}

# Print an answer; what is not JSON is printed as it is.
pretty() {
    if ! { command -v jq >/dev/null && jq . <<<"$1" 2>/dev/null; }; then printf '%s\n' "$1"; fi
}

# A text as one JSON string; everything that JSON reserves is escaped.
quoted() {
    local text=$1 out="" char code i
    LC_ALL=C
    for ((i = 0; i < ${#text}; i++)); do
        char=${text:i:1}
        case $char in
            '"') out+='\"' ;;
            \\) out+='\\' ;;
            $'\n') out+='\n' ;;
            $'\r') out+='\r' ;;
            $'\t') out+='\t' ;;
            [[:cntrl:]])
                printf -v code '\\u%04x' "'$char"
                out+=$code
                ;;
            *) out+=$char ;;
        esac
    done
    printf '"%s"' "$out"
}

# A text as one part of a URL: every byte that is not unreserved becomes %XX.
encoded() {
    local text=$1 out="" char code i
    LC_ALL=C
    for ((i = 0; i < ${#text}; i++)); do
        char=${text:i:1}
        case $char in
            [a-zA-Z0-9._~-]) out+=$char ;;
            *)
                printf -v code '%%%02X' "'$char"
                out+=%${code: -2}
                ;;
        esac
    done
    printf '%s' "$out"
}

# request METHOD PATH [BODY] [TOKEN]: prints the answer; ends the script when the box says no or is not there.
request() {
    local method=$1 path=$2 body=${3:-} token=${4:-${FLUX_TOKEN:-}} answer status
    local -a words=(--silent --show-error --max-time "$PATIENCE_S" --request "$method" --write-out '\n%{http_code}'
        --header 'Content-Type: application/json')
    if [ -n "$body" ]; then words+=(--data-binary @-); fi
    # The token goes through a file descriptor: arguments are visible to every process of the machine.
    if ! answer=$(
        printf '%s' "$body" | curl "${words[@]}" \
            --config <(if [ -n "$token" ]; then printf 'header = "Authorization: Bearer %s"\n' "${token//[\"\\]/}"; fi) \
            "$FLUX_URL$path"
    ); then
        fail "Failed to reach Flux at $FLUX_URL" 2
    fi
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    if [ -n "$answer" ]; then pretty "$answer"; fi
    if ((status >= 400)); then fail "the box answered $status"; fi
}

entity_path() {
    printf '/api/state/entities/%s' "$(encoded "$1")"
}

command_publish() {
    [ $# -eq 4 ] || wrong_use 'publish STREAM SOURCE ENTITY PROPERTIES'
    echo 'Publishing event to Flux...'
    request POST /api/events "$(printf '{"stream":%s,"source":%s,"timestamp":%s000,"payload":{"entity_id":%s,"properties":%s}}' \
        "$(quoted "$1")" "$(quoted "$2")" "$(date +%s)" "$(quoted "$3")" "$4")"
}

command_batch() {
    [ $# -eq 1 ] || wrong_use 'batch EVENTS'
    echo 'Publishing batch to Flux...'
    request POST /api/events/batch "{\"events\":$1}"
}

command_list() {
    local query="" joint='?'
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --namespace)
                [ $# -ge 2 ] || wrong_use 'list [--prefix P] [--namespace N]'
                query+="$joint${1#--}=$(encoded "$2")"
                joint='&'
                shift 2
                ;;
            *) wrong_use 'list [--prefix P] [--namespace N]' ;;
        esac
    done
    request GET "/api/state/entities$query"
}

command_admin_config() {
    case $# in
        0) request GET /api/admin/config ;;
        1)
            [ -n "${FLUX_ADMIN_TOKEN:-}" ] || fail 'FLUX_ADMIN_TOKEN not set'
            request PUT /api/admin/config "$1" "$FLUX_ADMIN_TOKEN"
            ;;
        *) wrong_use 'admin-config [UPDATE]' ;;
    esac
}

command_health() {
    local answer
    echo "Testing Flux connection at $FLUX_URL..."
    if ! answer=$(curl --silent --fail --max-time "$PATIENCE_S" "$FLUX_URL/api/state/entities") || [ -z "$answer" ]; then
        echo "✗ Failed to reach Flux at $FLUX_URL"
        exit 1
    fi
    echo '✓ Flux is reachable'
    if command -v jq >/dev/null; then
        echo "  Entities in state: $(printf '%s' "$answer" | jq length)"
    else
        echo "  Entities in state: $(printf '%s' "$answer" | grep -o '"lastUpdated":' | wc -l | tr -d ' ')"
    fi
}

main() {
    local command=${1:-}
    [ $# -eq 0 ] || shift
    case $command in
        publish) command_publish "$@" ;;
        batch) command_batch "$@" ;;
        get)
            [ $# -eq 1 ] || wrong_use 'get ENTITY'
            request GET "$(entity_path "$1")"
            ;;
        list) command_list "$@" ;;
        delete)
            [ $# -eq 1 ] || wrong_use 'delete ENTITY'
            echo "Deleting entity $1..."
            request DELETE "$(entity_path "$1")"
            ;;
        batch-delete)
            [ $# -eq 1 ] || wrong_use "batch-delete FILTER, such as '{\"prefix\":\"tmp-\"}'"
            echo 'Batch deleting entities...'
            request POST /api/state/entities/delete "$1"
            ;;
        connectors) request GET /api/connectors ;;
        admin-config) command_admin_config "$@" ;;
        health) command_health ;;
        -h | --help | help) usage ;;
        *)
            usage >&2
            exit 1
            ;;
    esac
}

main "$@"
