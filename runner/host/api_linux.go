package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// engineAPI speaks the Docker Engine API over a local socket. Paths carry no version: the engine then answers as its own newest,
// and everything used here has been the same since API 1.24. It keeps no connection open between calls.
// https://docs.docker.com/reference/api/engine/
type engineAPI struct {
	http *http.Client
}

// apiCallLimit bounds one API call. An engine that has not answered by then hangs: the slowest call made here, importing an
// image of a few hundred bytes, takes well under a second.
const apiCallLimit = 30 * time.Second

func newEngineAPI(socket string) *engineAPI {
	return &engineAPI{http: &http.Client{
		Timeout: apiCallLimit,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// apiError is an answer of the engine that is not a success.
type apiError struct {
	Method, Path string
	Status       int
	Message      string
}

// Error gives the engine's own message with the call it answered.
func (e *apiError) Error() string {
	return fmt.Sprintf("engine answered %d to %s %s: %s", e.Status, e.Method, e.Path, e.Message)
}

// do makes one call. A nil body sends none; an []byte or io.Reader body is sent as a tar archive, anything else as JSON. A nil
// answer discards what comes back.
func (a *engineAPI) do(ctx context.Context, method, path string, body, answer any) (err error) {
	var content io.Reader
	contentType := "application/json"
	switch body := body.(type) {
	case nil:
	case []byte:
		content, contentType = bytes.NewReader(body), "application/x-tar"
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the body of %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, content)
	if err != nil {
		return fmt.Errorf("making the request %s %s: %w", method, path, err)
	}
	if content != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.http.Do(request)
	if err != nil {
		return fmt.Errorf("calling the engine: %w", err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode >= 400 {
		return refusal(method, path, response)
	}
	if answer == nil {
		_, err := io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("decoding the engine's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func refusal(method, path string, response *http.Response) error {
	// An error's text is a sentence or two; what is longer is not shown whole.
	const maxErrorBytes = 16 << 10
	text, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return fmt.Errorf("reading the engine's answer to %s %s: %w", method, path, err)
	}
	var decoded struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &decoded) != nil || decoded.Message == "" {
		decoded.Message = strings.TrimSpace(string(text))
	}
	return &apiError{Method: method, Path: path, Status: response.StatusCode, Message: decoded.Message}
}

// engineVersion is the part of GET /version that is used.
type engineVersion struct {
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
}

func (a *engineAPI) version(ctx context.Context) (engineVersion, error) {
	var version engineVersion
	return version, a.do(ctx, http.MethodGet, "/version", nil, &version)
}

// engineInfo is the part of GET /info that is used.
type engineInfo struct {
	ContainersRunning int
	DefaultRuntime    string
	DockerRootDir     string
	Driver            string
	CgroupDriver      string
	CgroupVersion     string
	Runtimes          map[string]struct {
		Path string `json:"path"`
	}
}

func (a *engineAPI) info(ctx context.Context) (engineInfo, error) {
	var info engineInfo
	return info, a.do(ctx, http.MethodGet, "/info", nil, &info)
}

// reachable is true when the engine answers at all.
func (a *engineAPI) reachable(ctx context.Context) bool {
	return a.do(ctx, http.MethodGet, "/_ping", nil, nil) == nil
}
