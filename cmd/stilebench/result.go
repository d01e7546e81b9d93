package main

// Direction of data: up is from clients to peers.
type Direction string

// Directions.
const (
	Up   Direction = "up"
	Down Direction = "down"
	Both Direction = "both"
)

// TrialResult is what one load did. Rates are packets per second, counted once: a packet sent by a client and
// received by its peer is one packet.
type TrialResult struct {
	Direction    Direction `json:"direction"`
	SizeBytes    int       `json:"size_bytes"` // payload at the peer
	TargetRate   float64   `json:"target_pps"`
	Rate         float64   `json:"rate_pps"`      // sent
	DeliveryRate float64   `json:"delivered_pps"` // received
	Seconds      float64   `json:"seconds"`
	Sent         uint64    `json:"sent"`
	Received     uint64    `json:"received"`
	Loss         float64   `json:"loss"`      // share of what was sent
	Reordered    uint64    `json:"reordered"` // sequence numbers of one allocation that went back or repeated
	Strange      uint64    `json:"strange"`   // datagrams that no probe explains
	Skipped      uint64    `json:"skipped"`   // packets of the schedule that were not sent, as the generator was late
	LatencyUp    *Latency  `json:"latency_up,omitempty"`
	LatencyDown  *Latency  `json:"latency_down,omitempty"`
	CPU          *CPU      `json:"cpu,omitempty"` // absent when the server's process is not ours to see

	GeneratorUs    float64 `json:"generator_us_per_packet"` // send and receive, waiting not counted
	GeneratorBusy  float64 `json:"generator_busy"`          // share of the time; near 1 is no limit yet, as batches grow when time is short
	GeneratorDrops uint64  `json:"generator_drops"`         // by the kernel, before the generator's sockets and in its backlog
	ServerDrops    uint64  `json:"server_drops"`            // by the kernel, before the server's sockets
	Limit          limit   `json:"limit"`

	Flood *FloodResult `json:"flood,omitempty"`
}

// CPU is what a trial cost on the server's side.
type CPU struct {
	ProcessUs    float64 `json:"process_us_per_packet"` // run time of all threads of the server (and its NAPI threads)
	UserUs       float64 `json:"user_us_per_packet"`    // utime, by the tick
	SystemUs     float64 `json:"system_us_per_packet"`  // stime, by the tick
	CoreUs       float64 `json:"core_us_per_packet"`    // everything that ran on the server's CPU, interrupts included
	ServerShare  float64 `json:"server_share"`          // of one CPU, by run time
	ForeignShare float64 `json:"foreign_share"`         // of the server's CPU, used by others
	StealShare   float64 `json:"steal_share"`           // of the server's CPU, taken by the host
}

// FloodResult is what spoofed sources did during a trial.
type FloodResult struct {
	Sources      int     `json:"sources"`
	Sent         uint64  `json:"sent"`
	SentBytes    uint64  `json:"sent_bytes"` // IP packets
	Skipped      uint64  `json:"skipped"`    // of the flood's schedule
	Replies      uint64  `json:"replies"`
	ReplyBytes   uint64  `json:"reply_bytes"`   // IP packets
	Amplified    float64 `json:"amplification"` // reply bytes / sent bytes
	PSSGrowthKB  int64   `json:"pss_growth_kb"`
	SlabGrowthKB int64   `json:"slab_growth_kb"`
}

// AllocationResult is what setting up allocations cost.
type AllocationResult struct {
	Allocations int            `json:"allocations"`
	Failed      int            `json:"failed"`
	Errors      map[string]int `json:"errors,omitempty"`
	Seconds     float64        `json:"seconds"`
	PerSecond   float64        `json:"per_second"`
	Outstanding int            `json:"outstanding"`
	Retransmits int            `json:"retransmits"`
	ServerUs    float64        `json:"server_us_per_allocation"`
	PSSBytes    float64        `json:"pss_bytes_per_allocation"`
	SlabBytes   float64        `json:"slab_bytes_per_allocation"`
	Memory      bool           `json:"memory_measured"`
}

// Calibration is what the generator costs by itself, in the laboratory and without a server.
type Calibration struct {
	Version   int     `json:"version"`
	Facts     Facts   `json:"machine"`
	SizeBytes int     `json:"size_bytes"`
	SendUs    float64 `json:"send_us"`          // one packet into the cable, discarded by the first lines of the far stack
	DeliverUs float64 `json:"deliver_us"`       // the same, delivered to a socket on the far side, which the sender's system call does
	ReceiveUs float64 `json:"receive_us"`       // one packet out of the ring
	Highest   float64 `json:"highest_pps"`      // through a server that costs nothing: 1 / (deliver + receive)
	Bare      float64 `json:"highest_send_pps"` // 1 / send
}

// RunReport is what `run --json` prints.
type RunReport struct {
	Version     int          `json:"version"` // of this format: 1
	Facts       Facts        `json:"machine"`
	Server      string       `json:"server"`
	Command     []string     `json:"command,omitempty"`
	Allocations int          `json:"allocations"`
	Peers       int          `json:"peers"`
	Mode        Mode         `json:"mode"`
	Laboratory  bool         `json:"laboratory"`
	SetupPerSec float64      `json:"allocations_per_second"`
	Searched    bool         `json:"rate_searched"`
	Trials      int          `json:"trials"`
	LimitedBy   limit        `json:"limited_by"`
	Trial       *TrialResult `json:"result"`
}
