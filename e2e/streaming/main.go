// The clients that Kubernetes uses, client-go's remotecommand and portforward, at URLs of the streaming server. The
// streaming lane runs it:
//
//	streams exec [-ws] [-i] [-t] [-e] URL        like kubectl exec; ends with the command's exit code
//	streams pipe [-ws] [-mib N] [-slow] URL      so much through a command that copies its input, compared on the way
//	streams forward [-ws] [-mib N] -port P URL   the same through a forwarded port where somebody echoes
//	streams refused -port P -closed P URL        a refused connection, and another one after it in the same session
//
// 125 is a failure of the stream itself, 124 the end of the client's patience.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	webSocket = flag.Bool("ws", false, "WebSocket instead of SPDY")
	stdin     = flag.Bool("i", false, "pass standard input; lines of the form @size COLUMNS ROWS set the terminal's size")
	tty       = flag.Bool("t", false, "ask for a terminal")
	stderr    = flag.Bool("e", false, "ask for standard error")
	mib       = flag.Int64("mib", 1, "how much, in MiB")
	slow      = flag.Bool("slow", false, "read with pauses")
	port      = flag.Int("port", 0, "the pod's port")
	closed    = flag.Int("closed", 0, "a port of the pod where nobody listens")
)

func main() {
	verb := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	flag.Parse()
	time.AfterFunc(3*time.Minute, func() {
		fmt.Fprintln(os.Stderr, verb+": not done within 3 minutes")
		os.Exit(124)
	})
	verbs := map[string]func(*url.URL) error{"exec": run, "pipe": pipe, "forward": forward, "refused": refused}
	at, err := url.Parse(flag.Arg(0))
	if err == nil {
		err = verbs[verb](at)
	}
	var code exec.CodeExitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(code.Code)
	default:
		fmt.Fprintln(os.Stderr, verb+":", err)
		os.Exit(125)
	}
}

func stream(at *url.URL, options remotecommand.StreamOptions) error {
	config := &rest.Config{Host: at.Host}
	var executor remotecommand.Executor
	var err error
	if *webSocket {
		executor, err = remotecommand.NewWebSocketExecutor(config, "GET", at.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config, "POST", at)
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(context.Background(), options)
}

// sizes are handed on as they come; the end of input does not end them.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size := <-s
	return &size
}

func run(at *url.URL) error {
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *stderr {
		options.Stderr = os.Stderr
	}
	if *stdin {
		reader, writer := io.Pipe()
		queue := make(sizes)
		options.Stdin = reader
		if *tty {
			options.TerminalSizeQueue = queue
		}
		go func() {
			lines := bufio.NewReader(os.Stdin)
			for {
				line, err := lines.ReadString('\n')
				if words := strings.Fields(line); len(words) == 3 && words[0] == "@size" {
					columns, _ := strconv.Atoi(words[1])
					rows, _ := strconv.Atoi(words[2])
					queue <- remotecommand.TerminalSize{Width: uint16(columns), Height: uint16(rows)}
				} else {
					io.WriteString(writer, line)
				}
				if err != nil {
					writer.Close()
					return
				}
			}
		}()
	}
	return stream(at, options)
}

// source gives bytes of a known sequence in pieces of changing size.
type source struct {
	random *rand.ChaCha8
	sizes  *rand.Rand
	left   int64
}

func newSource(left int64) *source {
	return &source{rand.NewChaCha8([32]byte{7}), rand.New(rand.NewPCG(1, 2)), left}
}

func (s *source) Read(buffer []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	size := min(int64(len(buffer)), s.left, 1+s.sizes.Int64N(64*1024))
	n, err := s.random.Read(buffer[:size])
	s.left -= int64(n)
	return n, err
}

// sink compares with the sequence.
type sink struct {
	expected *rand.ChaCha8
	sizes    *rand.Rand
	got      int64
	buffer   []byte
}

func newSink() *sink {
	return &sink{rand.NewChaCha8([32]byte{7}), rand.New(rand.NewPCG(3, 4)), 0, nil}
}

func (s *sink) Write(piece []byte) (int, error) {
	if len(s.buffer) < len(piece) {
		s.buffer = make([]byte, len(piece))
	}
	expected := s.buffer[:len(piece)]
	s.expected.Read(expected)
	if !bytes.Equal(expected, piece) {
		return 0, fmt.Errorf("bytes after %d differ", s.got)
	}
	s.got += int64(len(piece))
	if *slow && s.sizes.IntN(8) == 0 {
		time.Sleep(time.Millisecond)
	}
	return len(piece), nil
}

func (s *sink) tell(size int64, begin time.Time) error {
	if s.got != size {
		return fmt.Errorf("%d of %d bytes came back", s.got, size)
	}
	rate := float64(size) / (1 << 20) / time.Since(begin).Seconds()
	fmt.Printf("%d bytes intact, %.0f MiB/s\n", size, rate)
	return nil
}

func pipe(at *url.URL) error {
	size, begin, sink := *mib<<20, time.Now(), newSink()
	err := stream(at, remotecommand.StreamOptions{Stdin: newSource(size), Stdout: sink})
	if err != nil {
		return err
	}
	return sink.tell(size, begin)
}

func dialer(at *url.URL) (httpstream.Dialer, error) {
	config := &rest.Config{Host: at.Host}
	if *webSocket {
		return portforward.NewSPDYOverWebsocketDialer(at, config)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", at), nil
}

func forward(at *url.URL) error {
	dialer, err := dialer(at)
	if err != nil {
		return err
	}
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ports := []string{fmt.Sprintf("0:%d", *port)}
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		return err
	case <-ready:
	}
	local, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	// One that is idle beside the one that works.
	address := fmt.Sprintf("127.0.0.1:%d", local[0].Local)
	idle, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer idle.Close()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	size, begin, sink := *mib<<20, time.Now(), newSink()
	go func() {
		io.Copy(connection, newSource(size))
		connection.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(sink, struct{ io.Reader }{connection}); err != nil {
		return err
	}
	if err := sink.tell(size, begin); err != nil {
		return err
	}
	io.WriteString(idle, "still here")
	answer := make([]byte, 10)
	if _, err := io.ReadFull(idle, answer); err != nil || string(answer) != "still here" {
		return fmt.Errorf("the idle connection answers %q, %v", answer, err)
	}
	close(stop)
	return <-ended
}

// client-go's port forwarder closes the session at the first word on an error stream; this looks at what the server does.
func refused(at *url.URL) error {
	dialer, err := dialer(at)
	if err != nil {
		return err
	}
	session, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return err
	}
	defer session.Close()
	if protocol != portforward.PortForwardProtocolV1Name {
		return fmt.Errorf("the protocol is %q", protocol)
	}
	pair := func(request, port int) (data, problem httpstream.Stream, err error) {
		headers := http.Header{}
		headers.Set("streamType", "error")
		headers.Set("port", strconv.Itoa(port))
		headers.Set("requestID", strconv.Itoa(request))
		if problem, err = session.CreateStream(headers); err != nil {
			return
		}
		problem.Close()
		headers.Set("streamType", "data")
		data, err = session.CreateStream(headers)
		return
	}
	_, problem, err := pair(0, *closed)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(problem)
	if err != nil || len(text) == 0 {
		return fmt.Errorf("no error of the refused connection: %q, %v", text, err)
	}
	fmt.Printf("refused: %s\n", text)
	data, problem, err := pair(1, *port)
	if err != nil {
		return err
	}
	io.WriteString(data, "hello")
	data.Close()
	answer, err := io.ReadAll(data)
	if err != nil || string(answer) != "hello" {
		return fmt.Errorf("the connection after it answers %q, %v", answer, err)
	}
	if text, err := io.ReadAll(problem); err != nil || len(text) != 0 {
		return fmt.Errorf("its error stream says %q, %v", text, err)
	}
	fmt.Println("and the next works")
	return nil
}
