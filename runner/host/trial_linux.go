package host

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"time"
)

const (
	// trialImage is the image of the trial container. It exists only while the trial lasts.
	trialImage = "gapproof-doctor"
	trialTag   = "trial"
	// trialLabel marks what the trial made, for whoever finds it after this program was killed.
	trialLabel = "dev.gapproof.owner"
	// trialCleanLimit bounds the removal of the trial's container and image when the trial's own context is over.
	trialCleanLimit = 15 * time.Second
)

// errNoTrialProgram reports an architecture that this package carries no trial program for.
var errNoTrialProgram = errors.New("no trial program for this architecture")

// tryPrivileged runs a privileged container and a privileged process in it, as kind does with its nodes, from an image of one
// tiny program that is made here, so that nothing is pulled. Container and image are removed again.
func (m *machine) tryPrivileged(ctx context.Context) (err error) {
	archive, err := trialArchive(runtime.GOARCH)
	if err != nil {
		return err
	}
	source := "/images/create?" + url.Values{"fromSrc": {"-"}, "repo": {trialImage}, "tag": {trialTag}}.Encode()
	if err := m.api.do(ctx, http.MethodPost, source, archive, nil); err != nil {
		return fmt.Errorf("importing the trial image: %w", err)
	}
	defer func() { err = errors.Join(err, m.remove(ctx, "/images/"+trialImage+":"+trialTag+"?force=true")) }()
	var container struct {
		ID string `json:"Id"`
	}
	if err := m.api.do(ctx, http.MethodPost, "/containers/create", map[string]any{
		"Image":      trialImage + ":" + trialTag,
		"Entrypoint": []string{"/wait"},
		"Labels":     map[string]string{trialLabel: "doctor"},
		"HostConfig": map[string]any{"Privileged": true, "NetworkMode": "none"},
	}, &container); err != nil {
		return fmt.Errorf("creating the trial container: %w", err)
	}
	defer func() { err = errors.Join(err, m.remove(ctx, "/containers/"+container.ID+"?force=true&v=true")) }()
	if err := m.api.do(ctx, http.MethodPost, "/containers/"+container.ID+"/start", nil, nil); err != nil {
		return fmt.Errorf("running a privileged container: %w", err)
	}
	return m.tryPrivilegedExec(ctx, container.ID)
}

// tryPrivilegedExec runs a second, privileged process in the container and wants it to end well.
func (m *machine) tryPrivilegedExec(ctx context.Context, container string) error {
	var process struct {
		ID string `json:"Id"`
	}
	if err := m.api.do(ctx, http.MethodPost, "/containers/"+container+"/exec",
		map[string]any{"Cmd": []string{"/leave"}, "Privileged": true}, &process); err != nil {
		return fmt.Errorf("preparing a privileged process: %w", err)
	}
	if err := m.api.do(ctx, http.MethodPost, "/exec/"+process.ID+"/start", map[string]any{"Detach": true}, nil); err != nil {
		return fmt.Errorf("running a privileged process in the container: %w", err)
	}
	var state struct {
		Running  bool
		ExitCode *int
	}
	if _, err := poll(ctx, enginePollInterval, apiCallLimit, func() (bool, error) {
		err := m.api.do(ctx, http.MethodGet, "/exec/"+process.ID+"/json", nil, &state)
		return !state.Running && state.ExitCode != nil, err
	}); err != nil {
		return fmt.Errorf("waiting for a privileged process in the container: %w", err)
	}
	if *state.ExitCode != 0 {
		return fmt.Errorf("running a privileged process in the container: it ended with code %d", *state.ExitCode)
	}
	return nil
}

// remove deletes what the trial made, also when the trial was interrupted.
func (m *machine) remove(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialCleanLimit)
	defer cancel()
	if err := m.api.do(ctx, http.MethodDelete, path, nil, nil); err != nil {
		return fmt.Errorf("removing what the trial made: %w", err)
	}
	return nil
}

// trialArchive is the root file system of the trial container: two programs and nothing else.
func trialArchive(architecture string) ([]byte, error) {
	if architecture != "amd64" {
		return nil, fmt.Errorf("%w: %s", errNoTrialProgram, architecture)
	}
	var text bytes.Buffer
	archive := tar.NewWriter(&text)
	for _, program := range []struct {
		name string
		code []byte
	}{{"wait", waitCode()}, {"leave", leaveCode()}} {
		content := executable(program.code)
		header := &tar.Header{Typeflag: tar.TypeReg, Name: program.name, Mode: 0o755, Size: int64(len(content))}
		if err := archive.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("writing the trial image: %w", err)
		}
		if _, err := archive.Write(content); err != nil {
			return nil, fmt.Errorf("writing the trial image: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("writing the trial image: %w", err)
	}
	return text.Bytes(), nil
}

// waitCode calls pause(2) for ever.
func waitCode() []byte {
	return []byte{
		0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the first instruction
	}
}

// leaveCode calls exit(0).
func leaveCode() []byte {
	return []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
		0x0f, 0x05, // syscall
	}
}

// Layout of the trial programs: one header, one segment that is loaded from the start of the file. The address is the one that
// linkers have always used for programs of this kind.
const (
	elfHeaderBytes  = 64
	elfSegmentBytes = 56
	loadAddress     = 0x400000
)

// executable wraps machine code for x86-64 in the smallest static ELF program.
// https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
func executable(code []byte) []byte {
	const codeOffset = elfHeaderBytes + elfSegmentBytes
	size := uint64(codeOffset + len(code))
	le := binary.LittleEndian
	file := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 bit, little endian, version 1
	file = le.AppendUint16(file, 2)                                         // type: executable
	file = le.AppendUint16(file, 62)                                        // machine: x86-64
	file = le.AppendUint32(file, 1)                                         // version
	file = le.AppendUint64(file, loadAddress+codeOffset)                    // entry
	file = le.AppendUint64(file, elfHeaderBytes)                            // offset of the segment table
	file = le.AppendUint64(file, 0)                                         // offset of the section table: none
	file = le.AppendUint32(file, 0)                                         // flags
	for _, field := range []uint16{elfHeaderBytes, elfSegmentBytes, 1, 0, 0, 0} {
		file = le.AppendUint16(file, field) // sizes and counts of header, segments, sections
	}
	file = le.AppendUint32(file, 1) // segment type: load
	file = le.AppendUint32(file, 5) // segment flags: read and execute
	for _, field := range []uint64{0, loadAddress, loadAddress, size, size, 0x1000} {
		file = le.AppendUint64(file, field) // offset, address, physical address, size in file, in memory, alignment
	}
	return append(file, code...)
}
