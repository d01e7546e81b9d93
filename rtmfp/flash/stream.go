package flash

import "slices"

func newStream(public *NetStream, c *connection, peer PeerID) *stream {
	return &stream{public: public, c: c, far: peer}
}

// do has f called by the owner of the core, and returns what it returns.
func (s *stream) do(f func(k *core) error) error {
	var err error
	if doErr := s.c.do(func(k *core) { err = f(k) }); doErr != nil {
		return doErr
	}
	return err
}

func (s *stream) publish(name string) error {
	return s.do(func(k *core) error { return s.publishAs(k, name) })
}

func (s *stream) play(name string) error {
	return s.do(func(k *core) error { return s.begin(k, name) })
}

func (s *stream) send(handler string, arguments []any) error {
	encoding := AMF0
	b, err := AppendData(nil, encoding, 0, Data{handler, arguments})
	if err != nil {
		return err
	}
	m, err := ParseMessage(b)
	if err != nil {
		panic("BUG: flash: a message that was appended does not parse")
	}
	return s.sendMessage(m)
}

func (s *stream) sendMessage(m Message) error {
	return s.do(func(k *core) error { return s.transmit(k, m) })
}

func (s *stream) publicName() (name string) {
	_ = s.do(func(*core) error { name = s.name; return nil })
	return name
}

func (s *stream) peerStreams() (list []*NetStream) {
	_ = s.do(func(*core) error {
		for _, sub := range s.subscribers {
			list = append(list, sub.stream.public)
		}
		return nil
	})
	return list
}

func (s *stream) farID() PeerID { return s.far }

func (s *stream) nonces() (near, far []byte) {
	_ = s.do(func(*core) error { near, far = slices.Clone(s.near), slices.Clone(s.farNonce); return nil })
	return near, far
}

func (s *stream) info() (info StreamInfo) {
	_ = s.do(func(k *core) error {
		info = s.info_
		switch {
		case s.kind == streamPublishing:
			info.VideoBitrate = s.pace.bitrate(k.cfg.Uplink, len(s.subscribers))
		case s.peer != nil:
			info.Path = s.link(k).path()
		}
		return nil
	})
	return info
}

func (s *stream) closeStream() error {
	return s.do(func(k *core) error {
		if s.closed {
			return ErrClosed
		}
		s.end(k)
		return nil
	})
}

// link is that of the session that the stream is in.
func (s *stream) link(k *core) *link {
	switch {
	case s.subscriber != nil:
		return k.linkOf(s.subscriber.control.Session())
	case s.control != nil:
		return k.linkOf(s.control.Session())
	}
	return nil
}
