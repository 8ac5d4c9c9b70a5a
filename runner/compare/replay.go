package compare

import "strings"

// Replay is the command that repeats one attempt of the scenario in file, quoted for a POSIX shell. Flags are appended, each a flag
// and its value.
func Replay(file, attemptID string, flags ...string) string {
	words := append([]string{"gapproof", "run", file, "--attempt", attemptID}, flags...)
	for i := range words {
		words[i] = ShellQuote(words[i])
	}
	return strings.Join(words, " ")
}

// shellSafe are the bytes besides letters and digits that no POSIX shell gives a meaning to in the middle of a word.
const shellSafe = "-_./:@%+=,"

// ShellQuote is s as one word of a POSIX shell.
func ShellQuote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(shellSafe, r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
