// Package logging writes the server's log: one event a line, JSON for machines or columns for a terminal, each field
// named as fields.go says.
//
// There is no global logger and no setting of zerolog's is changed: [New] makes a [Log], which is given to who logs. What an administrator
// wants to know about allocations comes out of the packet path as turn.Events and goes through [Events], a bounded queue, because a
// log that nobody reads (a full pipe, a stopped terminal) must not stop the relay.
//
// # Limitations
//
// Lines written through the Log itself, outside Events, wait for the writer. The format cannot be changed while the server runs;
// the level and the audit lines can.
package logging
