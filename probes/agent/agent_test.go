package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

const token = "0123456789abcdef0123456789abcdef"

// ample is never reached.
const ample = 10 * time.Second

// dialer is a Dialer whose attempts end with the kind it has, at once or when they may.
type dialer struct {
	hold       chan struct{} // closed: attempts may end; nil: at once
	begun      atomic.Int32
	atOnce     atomic.Int32
	mostAtOnce atomic.Int32
}

func (d *dialer) Do(ctx context.Context, a probes.Attempt) probes.Outcome {
	d.begun.Add(1)
	if n := d.atOnce.Add(1); n > d.mostAtOnce.Load() {
		d.mostAtOnce.Store(n)
	}
	defer d.atOnce.Add(-1)
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
			return probes.Outcome{AttemptID: a.ID, Kind: probes.Error, Detail: context.Cause(ctx).Error()}
		}
	}
	return probes.Outcome{AttemptID: a.ID, Kind: probes.Replied}
}

// listeners are Listeners with a fixed record.
type listeners struct {
	arrivals []probes.Arrival
	lost     uint64
}

func (l listeners) Check(context.Context) []probes.ListenerHealth {
	return []probes.ListenerHealth{{Protocol: probes.TCP, Port: 80, Fault: "bad"}}
}

func (l listeners) Find(tokens []probes.Token) (found []probes.Arrival) {
	for _, a := range l.arrivals {
		for _, t := range tokens {
			if a.Token == t {
				found = append(found, a)
			}
		}
	}
	return found
}

func (l listeners) Since(cursor uint64) ([]probes.Arrival, uint64) {
	return l.arrivals[min(cursor, uint64(len(l.arrivals))):], uint64(len(l.arrivals))
}

func (l listeners) Lost() (uint64, time.Time) { return l.lost, time.Unix(int64(l.lost), 0) }

// serve runs an agent until the test's end or the returned function; its URL comes first.
func serve(t *testing.T, d Dialer, l Listeners, opts Options) (url string, stop func()) {
	t.Helper()
	leaktest.Check(t)
	a, err := New("shop/web-0", token, d, l, opts)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Serve(ctx, socket); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(func() { stop(); http.DefaultTransport.(*http.Transport).CloseIdleConnections() })
	return "http://" + socket.Addr().String(), stop
}

// post sends the body with the token; the caller reads and closes the answer.
func post(t *testing.T, url string, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// answer reads all lines.
func answer(t *testing.T, response *http.Response) (outcomes map[string]probes.Outcome, faults []stream.Fault, end *stream.End) {
	t.Helper()
	defer response.Body.Close()
	outcomes = make(map[string]probes.Outcome)
	in := stream.NewReader(response.Body, stream.MaxReplyLine)
	for {
		text, err := in.Next()
		if err == io.EOF {
			return outcomes, faults, end
		}
		if err != nil {
			t.Fatal(err)
		}
		var line stream.Line
		if err := stream.Decode(text, &line); err != nil {
			t.Fatal(err)
		}
		switch {
		case line.Outcome != nil:
			outcomes[line.Outcome.AttemptID] = *line.Outcome
		case line.Fault != nil:
			faults = append(faults, *line.Fault)
		case line.End != nil:
			end = line.End
		}
	}
}

func attemptLine(id string) string {
	return fmt.Sprintf(`{"id":%q,"protocol":"TCP","destination":"10.0.0.1:80","token":"%s","deadline":1000000000}`+"\n", id, probes.Token{1})
}

func TestARequestWithoutTheTokenGets401AndNothingElse(t *testing.T) {
	url, _ := serve(t, new(dialer), listeners{}, Options{})
	address := strings.TrimPrefix(url, "http://")
	for name, authorization := range map[string]string{
		"no header":             "",
		"another token":         "Authorization: Bearer " + strings.Repeat("0", 32) + "\r\n",
		"the token cut short":   "Authorization: Bearer " + token[:31] + "\r\n",
		"the token and more":    "Authorization: Bearer " + token + "0\r\n",
		"the token as password": "Authorization: Basic " + token + "\r\n",
		"the token alone":       "Authorization: " + token + "\r\n",
	} {
		for _, target := range []string{"POST " + stream.PathAttempts, "POST " + stream.PathArrivals, "GET " + stream.PathHealth, "GET /", "POST /nowhere"} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(ample))
			// A body is announced and never sent: an agent that reads before it answers would not answer.
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: agent\r\n%sContent-Length: 1000\r\n\r\n", target, authorization)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, target, err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != http.StatusUnauthorized || len(body) > 0 || !response.Close {
				t.Errorf("%s, %s: want 401, no body and the end; got %s, %q, %v", name, target, response.Status, body, err)
			}
			for header := range response.Header {
				if header != "Date" && header != "Content-Length" && header != "Connection" {
					t.Errorf("%s, %s: header %s was sent", name, target, header)
				}
			}
			conn.Close()
		}
	}
}

func TestOutcomesComeWhileTheRequestIsStillBeingWritten(t *testing.T) {
	url, _ := serve(t, new(dialer), listeners{}, Options{})
	body, send := io.Pipe()
	go io.WriteString(send, attemptLine("a"))
	response := post(t, url+stream.PathAttempts, body)
	defer response.Body.Close()
	in := stream.NewReader(response.Body, stream.MaxReplyLine)
	for _, want := range []string{`"attemptID":"a"`, `"attemptID":"b"`} {
		line, err := in.Next()
		if err != nil || !strings.Contains(string(line), want) {
			t.Fatalf("want %s, got %s, %v", want, line, err)
		}
		if strings.Contains(want, `"a"`) {
			go func() { io.WriteString(send, attemptLine("b")); send.Close() }()
		}
	}
	if line, err := in.Next(); err != nil || !strings.Contains(string(line), `"end":{"lines":2}`) {
		t.Errorf("want the end, got %s, %v", line, err)
	}
}

func TestBadLinesDoNotStopTheGoodOnes(t *testing.T) {
	url, _ := serve(t, new(dialer), listeners{}, Options{})
	outcomes, faults, end := answer(t, post(t, url+stream.PathAttempts, strings.NewReader(
		attemptLine("a")+"garbage\n"+`{"id":"b","colour":"red"}`+"\n"+`{"protocol":"TCP"}`+"\n"+attemptLine("c"))))
	if len(outcomes) != 3 || outcomes["a"].Kind != probes.Replied || outcomes["c"].Kind != probes.Replied {
		t.Errorf("want a and c replied and b answered for, got %+v", outcomes)
	}
	if b := outcomes["b"]; b.Kind != probes.Error || !strings.Contains(b.Detail, `"colour"`) {
		t.Errorf("want b to be an error that names the field, got %+v", b)
	}
	if len(faults) != 2 || faults[0].Line != 2 || faults[0].Status != 400 || faults[1].Line != 4 {
		t.Errorf("want faults of lines 2 and 4, got %+v", faults)
	}
	if end == nil || end.Lines != 3 {
		t.Errorf("want an end after 3 outcomes, got %+v", end)
	}
}

func TestTooMuchIsRefusedAfterWhatCameBefore(t *testing.T) {
	url, _ := serve(t, new(dialer), listeners{}, Options{})
	var batch bytes.Buffer
	for n := range stream.MaxBatch + 1 {
		batch.WriteString(attemptLine(fmt.Sprint(n)))
	}
	for name, tt := range map[string]struct {
		body string
		want int
	}{
		"a batch of one too many": {batch.String(), stream.MaxBatch},
		"a line that is too long": {attemptLine("a") + strings.Repeat("x", stream.MaxRequestLine+1) + "\n" + attemptLine("b"), 1},
		"a line that is cut off":  {attemptLine("a") + `{"id":"b"`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			outcomes, faults, end := answer(t, post(t, url+stream.PathAttempts, strings.NewReader(tt.body)))
			if len(outcomes) != tt.want || end == nil || end.Lines != tt.want {
				t.Errorf("want %d outcomes, got %d and end %+v", tt.want, len(outcomes), end)
			}
			if len(faults) != 1 || (faults[0].Status != http.StatusRequestEntityTooLarge && faults[0].Status != http.StatusBadRequest) {
				t.Errorf("want one fault, got %+v", faults)
			}
		})
	}
}

func TestConcurrencyIsBoundedOverAllRequests(t *testing.T) {
	const bound, each = 5, 40
	d := &dialer{hold: make(chan struct{})}
	url, _ := serve(t, d, listeners{}, Options{Concurrency: bound})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			var body strings.Builder
			for n := range each {
				body.WriteString(attemptLine(fmt.Sprint(n)))
			}
			if outcomes, _, _ := answer(t, post(t, url+stream.PathAttempts, strings.NewReader(body.String()))); len(outcomes) != each {
				t.Errorf("want %d outcomes, got %d", each, len(outcomes))
			}
		})
	}
	for began := time.Now(); d.atOnce.Load() < bound; time.Sleep(time.Millisecond) {
		if time.Since(began) > ample {
			t.Fatalf("want %d attempts at once, got %d", bound, d.atOnce.Load())
		}
	}
	close(d.hold)
	wg.Wait()
	if got := d.mostAtOnce.Load(); got != bound {
		t.Errorf("want %d at once, got %d", bound, got)
	}
}

func TestARequestMayBoundItsOwnConcurrency(t *testing.T) {
	const bound, each = 2, 40
	d := &dialer{hold: make(chan struct{})}
	url, _ := serve(t, d, listeners{}, Options{Concurrency: 5})
	var body strings.Builder
	for n := range each {
		body.WriteString(attemptLine(fmt.Sprint(n)))
	}
	done := make(chan map[string]probes.Outcome)
	go func() {
		outcomes, _, _ := answer(t, post(t, fmt.Sprintf("%s%s?%s=%d", url, stream.PathAttempts, stream.AtOnceParameter, bound), strings.NewReader(body.String())))
		done <- outcomes
	}()
	for began := time.Now(); d.atOnce.Load() < bound; time.Sleep(time.Millisecond) {
		if time.Since(began) > ample {
			t.Fatalf("want %d attempts at once, got %d", bound, d.atOnce.Load())
		}
	}
	close(d.hold)
	if outcomes := <-done; len(outcomes) != each {
		t.Errorf("want %d outcomes, got %d", each, len(outcomes))
	}
	if got := d.mostAtOnce.Load(); got != bound {
		t.Errorf("want %d at once, got %d", bound, got)
	}
	for _, bad := range []string{"0", "-1", "many"} {
		response := post(t, url+stream.PathAttempts+"?"+stream.AtOnceParameter+"="+bad, strings.NewReader(attemptLine("a")))
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("at once %q: %s, want 400", bad, response.Status)
		}
	}
}

func TestStoppingEndsRunningAttemptsWithErrors(t *testing.T) {
	for name, waiting := range map[string]string{
		"with an attempt that waits for a slot": attemptLine("c"),
		"with a caller that sends nothing more": "",
	} {
		t.Run(name, func(t *testing.T) {
			d := &dialer{hold: make(chan struct{})} // never closed
			url, stop := serve(t, d, listeners{}, Options{Concurrency: 2})
			body, send := io.Pipe() // never closed either while the agent runs: the caller hangs
			defer send.Close()
			go io.WriteString(send, attemptLine("a")+attemptLine("b")+waiting)
			response := post(t, url+stream.PathAttempts, body)
			for began := time.Now(); d.begun.Load() < 2; time.Sleep(time.Millisecond) {
				if time.Since(began) > ample {
					t.Fatal("the attempts did not begin")
				}
			}
			began := time.Now()
			stopped := make(chan struct{})
			go func() { stop(); close(stopped) }()
			outcomes, faults, end := answer(t, response)
			<-stopped
			if took := time.Since(began); took > time.Second {
				t.Errorf("stopping took %s, want under a second", took)
			}
			if len(outcomes) != 2 || outcomes["a"].Kind != probes.Error || outcomes["a"].Detail != errStopping.Error() {
				t.Errorf("want a and b to be errors, got %+v", outcomes)
			}
			if len(faults) != 1 || faults[0].Status != http.StatusServiceUnavailable || end == nil {
				t.Errorf("want one fault for what was not begun, and the end; got %+v, %+v", faults, end)
			}
		})
	}
}

func TestACallerThatGoesEndsItsAttempts(t *testing.T) {
	d := &dialer{hold: make(chan struct{})} // never closed
	url, _ := serve(t, d, listeners{}, Options{})
	response := post(t, url+stream.PathAttempts, strings.NewReader(attemptLine("a")))
	for began := time.Now(); d.atOnce.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > ample {
			t.Fatal("the attempt did not begin")
		}
	}
	response.Body.Close()
	for began := time.Now(); d.atOnce.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > ample {
			t.Fatal("the attempt goes on")
		}
	}
}

func TestAThousandConnectionsWithGarbageDoNotKeepTheAgentFromAnswering(t *testing.T) {
	url, _ := serve(t, new(dialer), listeners{}, Options{})
	garbage := []string{"", "POST /v1/attempts HTTP/1.1\r\nHost: agent\r\n", "\x16\x03\x01\x02\x00", strings.Repeat("a", 1000)}
	for i := range 1000 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, garbage[i%len(garbage)]); err != nil {
			t.Fatal(err)
		}
	}
	outcomes, faults, end := answer(t, post(t, url+stream.PathAttempts, strings.NewReader(attemptLine("a"))))
	if len(outcomes) != 1 || len(faults) != 0 || end == nil {
		t.Errorf("beside 1 000 connections: outcomes %v, faults %v, end %v; want one outcome and an end", outcomes, faults, end)
	}
}

func TestArrivals(t *testing.T) {
	all := []probes.Arrival{{Token: probes.Token{1}, Protocol: probes.TCP, Count: 1}, {Token: probes.Token{2}, Protocol: probes.UDP, Count: 3}}
	url, _ := serve(t, new(dialer), listeners{arrivals: all, lost: 7}, Options{})
	for _, tt := range []struct {
		name, query, body string
		status            int
		want              []probes.Arrival
	}{
		{"by token", "", fmt.Sprintf("%q\n%q\n", probes.Token{2}, probes.Token{9}), 200, all[1:]},
		{"of no token", "", "", 200, nil},
		{"all", "?since=0", "", 200, all},
		{"all after a cursor", "?since=1", "", 200, all[1:]},
		{"after no cursor", "?since=x", "", 400, nil},
		{"of a token that is none", "", `"00"` + "\n", 400, nil},
		{"of more than may be asked", "", strings.Repeat(fmt.Sprintf("%q\n", probes.Token{}), stream.MaxBatch+1), 413, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response := post(t, url+stream.PathArrivals+tt.query, strings.NewReader(tt.body))
			defer response.Body.Close()
			if response.StatusCode != tt.status {
				t.Fatalf("want status %d, got %s", tt.status, response.Status)
			}
			if tt.status != http.StatusOK {
				return
			}
			var got []probes.Arrival
			var end *stream.End
			for decoder := json.NewDecoder(response.Body); decoder.More(); {
				var line stream.Line
				if err := decoder.Decode(&line); err != nil {
					t.Fatal(err)
				}
				if line.Arrival != nil {
					got = append(got, *line.Arrival)
				}
				end = line.End
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b probes.Arrival) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if end == nil || end.Lines != len(tt.want) || end.Lost != 7 {
				t.Errorf("want an end with %d lines and 7 lost, got %+v", len(tt.want), end)
			}
		})
	}
}

func TestPaceSpacesBeginningsEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{interval: 100 * time.Millisecond}
		began := time.Now()
		for range 11 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if want, got := time.Second, time.Since(began); got != want {
			t.Errorf("eleven beginnings: want %s, got %s", want, got)
		}
		time.Sleep(time.Minute) // saves nothing up
		began = time.Now()
		for range 3 {
			p.wait(t.Context())
		}
		if want, got := 200*time.Millisecond, time.Since(began); got != want {
			t.Errorf("three after a pause: want %s, got %s", want, got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ended); err == nil {
			t.Error("with a context that has ended: want its error")
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for name, make := range map[string]func() (*Agent, error){
		"no token":               func() (*Agent, error) { return New("a/b", "", nil, nil, Options{}) },
		"a short token":          func() (*Agent, error) { return New("a/b", token[:31], nil, nil, Options{}) },
		"a token with a space":   func() (*Agent, error) { return New("a/b", token+" x", nil, nil, Options{}) },
		"a negative concurrency": func() (*Agent, error) { return New("a/b", token, nil, nil, Options{Concurrency: -1}) },
		"a negative rate":        func() (*Agent, error) { return New("a/b", token, nil, nil, Options{Rate: -1}) },
	} {
		a, err := make()
		if a != nil || err == nil {
			t.Errorf("%s: want an error", name)
		} else if strings.Contains(err.Error(), token[:31]) {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
}

func FuzzReadAttempt(f *testing.F) {
	f.Add([]byte(attemptLine("a")))
	f.Add([]byte(`{"id":"b","colour":"red"}`))
	f.Add([]byte(`{"ID":"b"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if a, id, err := readAttempt(line); err == nil && (id == "" || id != a.ID) {
			t.Errorf("%q was read as %+v with id %q", line, a, id)
		}
	})
}

func FuzzReadTokens(f *testing.F) {
	f.Add([]byte(`"00000000000000000000000000000001"` + "\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if tokens, status, err := readTokens(bytes.NewReader(body)); (err == nil) != (status == http.StatusOK) || (err != nil && tokens != nil) {
			t.Errorf("tokens %v, status %d, error %v", tokens, status, err)
		}
	})
}
