#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The runner's own test: a wrong expectation must fail. Usage: check_self.sh PATH_OF_CHECK
set -u
check=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0

# expect NAME WANTED_LAST_LINE WANTED_TEXT: runs the test file given on stdin
expect() {
    cat > "$dir/$1.test"
    local out
    out=$("$check" --timeout 2 --ssdc "$dir/bin/ssdc" "$dir/$1.test" 2>&1)
    if [[ $(tail -n 1 <<< "$out") == "$2" && $out == *"$3"* ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'check_self: %s: expected "%s" and "%s", found:\n%s\n' "$1" "$2" "$3" "$out"
    fi
}
mkdir "$dir/bin"
cat > "$dir/bin/ssdc" <<'X'
#!/bin/sh
# A stand-in for the command: prints one error at 3:7 of its argument.
echo "$1:3:7: error: unknown dim 'Z'" >&2
exit 1
X
chmod +x "$dir/bin/ssdc"

good='1 passed, 0 failed' bad='0 passed, 1 failed'
expect order "$good" '' <<< $'# RUN: printf "a  b\\nc\\n"\n# CHECK: a b\n# CHECK: c'
expect disorder "$bad" 'not found' <<< $'# RUN: printf "a\\nb\\n"\n# CHECK: b\n# CHECK: a'
expect not_between "$bad" 'should not be: b' <<< $'# RUN: echo a b c\n# CHECK: a\n# CHECK-NOT: b\n# CHECK: c'
expect not_after "$good" '' <<< $'# RUN: echo a b c\n# CHECK: b\n# CHECK-NOT: a\n# CHECK: c'
expect not_at_end "$bad" 'should not be: c' <<< $'# RUN: echo a b c\n# CHECK: b\n# CHECK-NOT: c'
expect status "$bad" 'exit status 3, expected 0' <<< $'# RUN: echo a; exit 3\n# CHECK: a'
expect status_wanted "$good" '' <<< $'# RUN: exit 3\n# EXIT: 3'
expect crash "$bad" 'exit status 139' <<< $'# RUN: kill -SEGV $$\n# EXIT: 0'
expect late "$bad" 'out of time' <<< $'# RUN: sleep 10\n# EXIT: 0'
expect nothing "$bad" 'expects nothing' <<< '# RUN: true'
expect no_run "$bad" 'no RUN line' <<< 'text'
expect this_file "$good" '' <<< $'# RUN: cat %s\nbody\n# CHECK: body'
expect error "$good" '' <<< $'# RUN: ssdc %s\n\nx: [Z]  # ERROR: 7: unknown dim'
expect error_column "$bad" 'no such error' <<< $'# RUN: ssdc %s\n\nx: [Z]  # ERROR: 8: unknown dim'
expect error_line "$good" '' <<< $'# RUN: ssdc %s\n\nx: [Z]\n# ERROR@-1: 7: unknown dim'
expect error_extra "$bad" 'not expected' <<< $'# RUN: ssdc %s; echo "%s:9:9: error: b" >&2; exit 1\n\nx: [Z]  # ERROR: 7: unknown dim'
expect error_two "$good" '' <<< $'# RUN: ssdc %s; echo "%s:3:9: error: b" >&2; exit 1\n\nx: [Z]  # ERROR: 7: unknown dim  # ERROR: 9: b'
expect golden "$good" '' <<< $'# RUN: printf "a\\n\\nb\\n"\n# OUTPUT:\n# a\n#\n# b'
expect golden_differs "$bad" '+b' <<< $'# RUN: printf "a\\nb\\n"\n# OUTPUT:\n# a\n# c'

"$check" --update "$dir/golden_differs.test" > "$dir/log" && "$check" "$dir/golden_differs.test" > "$dir/log" &&
    tail -n 1 "$dir/golden_differs.test" | grep -qx '# b' && passed=$((passed + 1)) || failed=$((failed + 1))
cat > "$dir/list" <<X
run counts echo 3 passed, 2 failed
run cmocka printf '[  PASSED  ] 4 test(s).\n[  FAILED  ] g: 1 test(s), listed below:\n'
run status false
X
[[ $("$check" "@$dir/list" | tail -n 1) == '7 passed, 4 failed' ]] && passed=$((passed + 1)) || failed=$((failed + 1))
echo "$passed passed, $failed failed"
[[ $failed == 0 ]]
