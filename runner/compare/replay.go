package compare

import "strings"

// Replay is the command that repeats one attempt of the scenario in file, quoted for a POSIX shell.
func Replay(file, attemptID string) string {
	return "gapproof run " + shellQuote(file) + " --attempt " + shellQuote(attemptID)
}

// WithReplay is j with the command that repeats it, for every result but pass.
func (j Judgement) WithReplay(file string) Judgement {
	if j.Result != Pass {
		j.Replay = Replay(file, j.Attempt.ID)
	}
	return j
}

// shellSafe are the bytes besides letters and digits that no POSIX shell gives a meaning to in the middle of a word.
const shellSafe = "-_./:@%+=,"

func shellQuote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(shellSafe, r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
