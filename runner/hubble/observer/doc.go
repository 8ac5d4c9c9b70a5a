// Package observer reads a cluster's Hubble flows, as `hubble observe --follow` does, through the API server's port-forward.
//
// [Start] finds the servers, a hubble-relay's or every Cilium agent's own, and returns a [Watch] that fills a [hubble.Log] until Stop, which
// gives the [hubble.Reading]. The API's own generated types are used: a codec by hand for the dozen fields that count would have to be kept
// by hand too, and most of what they add to the program is gRPC.
//
// The trap: nothing here ever fails a run. Whatever keeps flows from being read is a fault in the Reading.
//
// https://github.com/cilium/cilium/blob/v1.20.2/api/v1/observer/observer.proto
package observer
