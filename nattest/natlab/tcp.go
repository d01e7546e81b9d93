package natlab

import "time"

type tcpHost struct{}
type segment struct{}

func (s *segment) String() string { return "" }

func (t *tcpHost) init()     {}
func (t *tcpHost) closeAll() {}

func (h *Host) tcpIngress(now time.Time, p *Packet) { h.refuse(now, p) }
func (h *Host) tcpError(*ICMPError) bool            { return false }
