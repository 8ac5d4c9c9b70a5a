package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// The lines of cyclonus v0.5.6 that carry times and verdicts: pkg/connectivity/printer.go and interpreter.go of its module. Log lines go to
// stderr, tables to stdout; both are read as one stream.
var (
	caseLine     = regexp.MustCompile(`^starting test case #\d+$`)
	waitLine     = regexp.MustCompile(`msg="step (\d+): waiting `)
	evaluateLine = regexp.MustCompile(`^evaluating test case: (.*)$`)
	stepLine     = regexp.MustCompile(`^step (\d+) on (?:all available ports/protocols|port (\S+), protocol (\S+)):$`)
	agreedLine   = regexp.MustCompile(`^\d+ wrong, \d+ ignored, \d+ correct$`)
	triedLine    = regexp.MustCompile(`^kube results, try \d+:$`)
	podCell      = regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9-]+$`)
	portCell     = regexp.MustCompile(`^(TCP|UDP|SCTP)/\d+$`)
)

const promisedLine = "Expected combined:"

// Cyclonus' symbols (pkg/connectivity/probe/connectivity.go of its module) other than for allowed and blocked stand for what it could not tell.
const (
	allowedSymbol = "."
	blockedSymbol = "X"
)

// longestLine is far beyond the widest table row; without it a scanner gives up at 64 KiB.
const longestLine = 1 << 20

// tableReader reads a stamped log line by line.
type tableReader struct {
	result Result
	// title is the current case's, started when it began, and ends when each of its steps did: a case's times all come before its tables.
	title   string
	started time.Duration
	ends    []time.Duration
	current *section
	// into says what the next table is for; ports, rows and cells are what has been read of it.
	into  use
	ports []string
	rows  []string
	cells [][]string
}

// use is what a table is for.
type use uint8

const (
	unused use = iota
	promised
	observed
)

// section is the printed part of one step.
type section struct {
	number int
	port   string // for a step of one port; else in the tables' headers
	tables map[use]map[string]string
}

// readTables reads the log of one run of cyclonus: lines of its output, each behind the seconds since its start. Of the result it fills the
// steps and the time before the first.
func readTables(log io.Reader) (*Result, error) {
	r := &tableReader{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, longestLine)
	for n := 1; lines.Scan(); n++ {
		stamp, text, _ := strings.Cut(strings.TrimLeft(lines.Text(), " "), " ")
		seconds, err := strconv.ParseFloat(stamp, 64)
		if err != nil {
			return nil, fmt.Errorf("reading line %d of cyclonus' log: %q is no time", n, stamp)
		}
		if err := r.line(time.Duration(seconds*float64(time.Second)), text); err != nil {
			return nil, fmt.Errorf("reading line %d of cyclonus' log: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading cyclonus' log: %w", err)
	}
	if err := r.finishTable(); err != nil {
		return nil, fmt.Errorf("reading the end of cyclonus' log: %w", err)
	}
	if err := r.finishSection(); err != nil {
		return nil, fmt.Errorf("reading the end of cyclonus' log: %w", err)
	}
	return &r.result, nil
}

func (r *tableReader) line(at time.Duration, text string) error {
	if strings.HasPrefix(text, "|") && r.into != unused {
		r.row(text)
		return nil
	}
	if !strings.HasPrefix(text, "+") {
		if err := r.finishTable(); err != nil {
			return err
		}
	}
	switch m := stepLine.FindStringSubmatch(text); {
	case m != nil:
		return r.startSection(m)
	case caseLine.MatchString(text):
		err := r.finishSection()
		if r.result.Parts == nil {
			r.result.Parts = []Part{{"namespaces, pods and Services made", at}}
		}
		r.started, r.ends = at, nil
		return err
	case evaluateLine.MatchString(text):
		r.ends = append(r.ends, at)
		r.title = evaluateLine.FindStringSubmatch(text)[1]
	case text == promisedLine:
		r.into = promised
	case triedLine.MatchString(text), agreedLine.MatchString(text):
		r.into = observed
	default:
		if m := waitLine.FindStringSubmatch(text); m != nil && m[1] != "1" {
			r.ends = append(r.ends, at)
		}
	}
	return nil
}

func (r *tableReader) startSection(m []string) error {
	if err := r.finishSection(); err != nil {
		return err
	}
	number, err := strconv.Atoi(m[1])
	if err != nil {
		return err
	}
	r.current = &section{number: number, tables: map[use]map[string]string{}}
	if m[2] != "" {
		if r.current.port, err = onePort(m[2], m[3]); err != nil {
			return err
		}
	}
	return nil
}

// onePort is a step's port as cyclonus names it, by number or name, in gapproof's form.
func onePort(port, protocol string) (string, error) {
	for _, number := range worldPorts() {
		for _, p := range worldProtocols() {
			if string(p) == protocol && (port == portName(number, p) || port == strconv.Itoa(int(number))) {
				return scenarios.FormatPort(p, number), nil
			}
		}
	}
	return "", fmt.Errorf("no pod listens on port %s of %s", port, protocol)
}

// row keeps one row of a table. Header rows carry the order of ports in their first cell; pods' columns are in the order of their rows.
func (r *tableReader) row(text string) {
	cells := strings.Split(strings.Trim(text, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	switch {
	case podCell.MatchString(cells[0]):
		r.rows = append(r.rows, cells[0])
		r.cells = append(r.cells, cells[1:])
	case portCell.MatchString(cells[0]):
		r.ports = append(r.ports, cells[0])
	}
}

// finishTable takes the table that has been read, if any. Of several tables for one use the last stays: the last try counts.
func (r *tableReader) finishTable() error {
	if len(r.rows) == 0 {
		return nil
	}
	rows, cells, ports, into := r.rows, r.cells, r.ports, r.into
	r.rows, r.cells, r.ports, r.into = nil, nil, nil, unused
	if r.current == nil {
		return fmt.Errorf("a table stands outside of any step")
	}
	if r.current.port != "" {
		ports = []string{r.current.port}
	}
	table := map[string]string{}
	for i, source := range rows {
		if len(cells[i]) != len(rows) {
			return fmt.Errorf("row %s has %d columns for %d pods", source, len(cells[i]), len(rows))
		}
		for j, destination := range rows {
			symbols := strings.Fields(cells[i][j])
			if len(symbols) != len(ports) {
				return fmt.Errorf("cell %s>%s has %d symbols for %d ports", source, destination, len(symbols), len(ports))
			}
			for k, port := range ports {
				table[source+">"+destination+":"+port] = symbols[k]
			}
		}
	}
	r.current.tables[into] = table
	return nil
}

// finishSection makes a step of the section that has been read, if any.
func (r *tableReader) finishSection() error {
	s := r.current
	r.current = nil
	if s == nil {
		return nil
	}
	if s.number > len(r.ends) || len(s.tables[observed]) == 0 {
		return fmt.Errorf("step %d of %q has no time or no table", s.number, r.title)
	}
	from := r.started
	if s.number > 1 {
		from = r.ends[s.number-2]
	}
	step := Step{Case: r.title, Number: s.number, Took: r.ends[s.number-1] - from, Rounds: 1, Answers: map[string]Answer{}}
	for id, symbol := range s.tables[observed] {
		a := Answer{Verdict: verdictOf(symbol)}
		a.Promised = a.Verdict // what it promised is printed only where something differs
		if p := s.tables[promised]; p != nil {
			a.Promised = verdictOf(p[id])
		}
		if a.Verdict == reach.Unknown {
			a.Detail = "cyclonus printed " + symbol
		}
		step.Answers[id] = a
	}
	r.result.Steps = append(r.result.Steps, step)
	return nil
}

func verdictOf(symbol string) reach.Verdict {
	switch symbol {
	case allowedSymbol:
		return reach.Allow
	case blockedSymbol:
		return reach.Deny
	}
	return reach.Unknown
}
