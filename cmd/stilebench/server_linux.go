package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// server is a process that this program started. Its methods are safe for concurrent use.
type server struct {
	spec serverSpec
	args []string
	addr netip.AddrPort
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	napi []int
}

type serverConfig struct {
	spec             serverSpec
	listen           netip.AddrPort
	relay            netip.Addr
	minPort, maxPort int
	cpus             placement
	thread           *nsThread // of the server's namespace; it must outlive the process, which dies with it
	napi             []int     // kernel threads that work for this server
}

func startServer(cfg serverConfig) (_ *server, err error) {
	s := &server{spec: cfg.spec, addr: cfg.listen, done: make(chan struct{}), napi: cfg.napi}
	if s.dir, err = os.MkdirTemp("", "stilebench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(s.dir)
		}
	}()
	s.args, err = expand(cfg.spec.Command, map[string]string{
		"ip": cfg.listen.Addr().String(), "port": fmt.Sprint(cfg.listen.Port()), "relay_ip": cfg.relay.String(),
		"min_port": fmt.Sprint(cfg.minPort), "max_port": fmt.Sprint(cfg.maxPort), "dir": s.dir,
	})
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", cfg.spec.Name, err)
	}
	out, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cfg.thread.do(func() error {
		if cfg.cpus.server >= 0 {
			// A child inherits the CPUs of the thread that forks it.
			if err := pinThread(0, cfg.cpus.server); err != nil {
				return err
			}
			defer func() { _ = pinThread(0, cfg.cpus.generator) }()
		}
		return s.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", cfg.spec.Name, err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

func (s *server) pids() []int { return processTree(s.cmd.Process.Pid) }

// ended reports why the process is no longer there, with the end of what it printed, or nil.
func (s *server) ended() error {
	select {
	case <-s.done:
		b, _ := os.ReadFile(filepath.Join(s.dir, "output"))
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		return fmt.Errorf("server %s ended (%v): %s", s.spec.Name, s.cmd.ProcessState, strings.Join(lines[max(0, len(lines)-5):], " | "))
	default:
		return nil
	}
}

// stop ends the process, politely for two seconds.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(2 * time.Second):
		if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			fmt.Fprintln(os.Stderr, "stilebench:", err)
		}
		<-s.done
	}
	_ = os.RemoveAll(s.dir)
}
