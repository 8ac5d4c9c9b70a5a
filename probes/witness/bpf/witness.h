/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What all hooks share: the tables, how a packet is matched to a watched flow, and how a sighting is noted.
 *
 * A hook includes this file and defines load(). Everything it knows is added up in the flow's own entry; what a drop sends beside is a
 * call to look there, never the knowledge itself.
 */
#pragma once

#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Sizes of the tables; user space sets them from its own constants. */
#define MAX_FLOWS 65536
#define MAX_OWNERS 1025

/*
 * How many different sightings one flow has room for. A delivered TCP attempt makes about ten on one node, and each rule or
 * interface that drops adds one for each kind of packet.
 */
#define SLOTS 24

/* The numbers of probes.Packet and probes.Point. */
enum packet { REQUEST = 1, REPLY = 2, RESET = 3, ICMP_ERROR = 4 };
enum point { LEFT = 1, REACHED = 2, DROPPED = 3 };

#define ICMP 1
#define TCP 6
#define UDP 17
#define ICMPV6 58
#define SCTP 132

/* A watched flow: the source's end. An IPv4 address is in the first four bytes. */
struct flow_key {
	__u8 address[16];
	__u16 port; /* the echo identifier for ICMP; in host order */
	__u8 protocol;
	__u8 version; /* 4 or 6 */
};

/* One thing seen. It is filled in first and counts from then on: a count of zero means that it is not there yet. */
struct sighting {
	__u64 count;
	__u64 first; /* nanoseconds of the monotonic clock */
	__u32 owner;
	__u32 ifindex;
	__u32 reason;
	__u8 packet;
	__u8 point;
	__u8 code;
	__u8 local;
	__u8 peer[16];
	__u16 peer_port;
	__u8 peer_version;
	__u8 pad[5];
	__u8 interface[IFNAMSIZ];
};

struct flow_state {
	__u32 taken; /* slots given out; above SLOTS, sightings were lost */
	__u32 pad;
	struct sighting slots[SLOTS];
};

/* Only user space adds entries, so the kernel need not hold memory ready for those a program would add. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow_state);
} flows SEC(".maps");

/* What is seen, before it is added up. */
struct seen {
	__u8 packet;
	__u8 code;
	__u8 peer_version;
	__u16 peer_port;
	__u8 peer[16];
};

/* load copies bytes of the packet; offset counts from where the hook's packet begins. Not zero when there are not so many. */
static __always_inline int load(void *packet, __u32 offset, void *to, __u32 length);

/* The network header, as far as it is needed. */
struct header {
	__u8 source[16];
	__u8 destination[16];
	__u32 transport; /* offset of what follows */
	__u8 protocol;
	__u8 version;
};

/* Extension headers of IPv6 that are skipped (RFC 8200, RFC 4302); a packet with more of them is not matched. */
#define MAX_EXTENSIONS 6
#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define AUTHENTICATION 51
#define DESTINATION_OPTIONS 60

static __always_inline int read_header(void *packet, __u32 at, struct header *h)
{
	__u8 ip[40];

	__builtin_memset(h, 0, sizeof(*h));
	if (load(packet, at, ip, 20))
		return -1;
	h->version = ip[0] >> 4;
	if (h->version == 4) {
		/* Only the first fragment has ports. */
		if ((ip[6] & 0x1f) || ip[7])
			return -1;
		__builtin_memcpy(h->source, ip + 12, 4);
		__builtin_memcpy(h->destination, ip + 16, 4);
		h->protocol = ip[9];
		h->transport = at + (ip[0] & 0x0f) * 4;
		return 0;
	}
	if (h->version != 6 || load(packet, at, ip, 40))
		return -1;
	__builtin_memcpy(h->source, ip + 8, 16);
	__builtin_memcpy(h->destination, ip + 24, 16);
	h->protocol = ip[6];
	h->transport = at + 40;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 next[4];

		if (h->protocol != HOP_BY_HOP && h->protocol != ROUTING && h->protocol != FRAGMENT &&
		    h->protocol != AUTHENTICATION && h->protocol != DESTINATION_OPTIONS)
			return 0;
		if (load(packet, h->transport, next, 4))
			return -1;
		if (h->protocol == FRAGMENT) {
			if (next[2] || (next[3] & 0xf8))
				return -1;
			h->transport += 8;
		} else if (h->protocol == AUTHENTICATION) {
			h->transport += (next[1] + 2) * 4;
		} else {
			h->transport += (next[1] + 1) * 8;
		}
		h->protocol = next[0];
	}
	return -1;
}

static __always_inline __u16 port_at(const __u8 *p)
{
	return (__u16)p[0] << 8 | p[1];
}

static __always_inline int is_echo_request(const struct header *h, __u8 type)
{
	return h->protocol == ICMP ? type == 8 : type == 128;
}

static __always_inline int is_echo_reply(const struct header *h, __u8 type)
{
	return h->protocol == ICMP ? type == 0 : type == 129;
}

static __always_inline int is_unreachable(const struct header *h, __u8 type)
{
	return h->protocol == ICMP ? type == 3 : type == 1;
}

/* source_of fills in the key of the flow whose request the header h belongs to. */
static __always_inline int source_of(void *packet, const struct header *h, struct flow_key *key)
{
	__u8 l4[8];

	__builtin_memcpy(key->address, h->source, 16);
	key->version = h->version;
	key->protocol = h->protocol;
	if (load(packet, h->transport, l4, 8)) /* RFC 792 has an error quote so much */
		return -1;
	switch (h->protocol) {
	case TCP:
	case UDP:
	case SCTP:
		key->port = port_at(l4);
		return 0;
	case ICMP:
	case ICMPV6:
		key->port = port_at(l4 + 4);
		return is_echo_request(h, l4[0]) ? 0 : -1;
	}
	return -1;
}

/* match is the state of the watched flow to which the packet belongs, its key, and what the packet is to it; null when there is none. */
static __always_inline struct flow_state *match(void *packet, __u32 at, struct flow_key *key, struct seen *seen)
{
	struct flow_state *state;
	struct header h;
	__u8 l4[14];

	if (read_header(packet, at, &h))
		return 0;
	if (load(packet, h.transport, l4, 8))
		return 0;

	__builtin_memset(key, 0, sizeof(*key));
	key->version = h.version;
	key->protocol = h.protocol;
	seen->peer_version = h.version;

	switch (h.protocol) {
	case TCP:
	case UDP:
	case SCTP:
		__builtin_memcpy(key->address, h.source, 16);
		key->port = port_at(l4);
		state = bpf_map_lookup_elem(&flows, key);
		if (state) {
			seen->packet = REQUEST;
			__builtin_memcpy(seen->peer, h.destination, 16);
			seen->peer_port = port_at(l4 + 2);
			return state;
		}
		__builtin_memcpy(key->address, h.destination, 16);
		key->port = port_at(l4 + 2);
		state = bpf_map_lookup_elem(&flows, key);
		if (!state)
			return 0;
		seen->packet = REPLY;
		__builtin_memcpy(seen->peer, h.source, 16);
		seen->peer_port = port_at(l4);
		if (h.protocol == TCP && !load(packet, h.transport, l4, 14) && (l4[13] & 0x04))
			seen->packet = RESET;
		/* The first chunk's type follows the common header (RFC 9260); 6 is ABORT. */
		if (h.protocol == SCTP && !load(packet, h.transport, l4, 13) && l4[12] == 6)
			seen->packet = RESET;
		return state;
	case ICMP:
	case ICMPV6:
		break;
	default:
		return 0;
	}

	if (is_echo_request(&h, l4[0])) {
		seen->packet = REQUEST;
		__builtin_memcpy(key->address, h.source, 16);
		__builtin_memcpy(seen->peer, h.destination, 16);
		key->port = port_at(l4 + 4);
	} else if (is_echo_reply(&h, l4[0])) {
		seen->packet = REPLY;
		__builtin_memcpy(key->address, h.destination, 16);
		__builtin_memcpy(seen->peer, h.source, 16);
		key->port = port_at(l4 + 4);
	} else if (is_unreachable(&h, l4[0])) {
		seen->packet = ICMP_ERROR;
		seen->code = l4[1];
		__builtin_memcpy(seen->peer, h.source, 16);
		if (read_header(packet, h.transport + 8, &h) || source_of(packet, &h, key))
			return 0;
	} else {
		return 0;
	}
	return bpf_map_lookup_elem(&flows, key);
}

/* The place of a sighting. */
struct place {
	__u32 owner;
	__u32 ifindex;
	__u32 reason;
	__u8 point;
	__u8 local;
	struct net_device *device; /* null where the hook has only its number */
};

static __always_inline void note(struct flow_state *state, const struct seen *seen, const struct place *place)
{
	struct net_device *device = place->device;
	struct sighting *s;
	__u32 slot;

	for (int i = 0; i < SLOTS; i++) {
		s = &state->slots[i];
		if (s->count && s->packet == seen->packet && s->point == place->point && s->code == seen->code &&
		    s->local == place->local && s->owner == place->owner && s->ifindex == place->ifindex &&
		    s->reason == place->reason) {
			__sync_fetch_and_add(&s->count, 1);
			return;
		}
	}
	/* Two processors may take a slot each for the same thing; user space adds them up. */
	slot = __sync_fetch_and_add(&state->taken, 1);
	if (slot >= SLOTS)
		return;
	s = &state->slots[slot];
	s->first = bpf_ktime_get_ns();
	s->owner = place->owner;
	s->ifindex = place->ifindex;
	s->reason = place->reason;
	s->packet = seen->packet;
	s->point = place->point;
	s->code = seen->code;
	s->local = place->local;
	__builtin_memcpy(s->peer, seen->peer, 16);
	s->peer_port = seen->peer_port;
	s->peer_version = seen->peer_version;
	if (device)
		bpf_core_read_str(s->interface, sizeof(s->interface), &device->name);
	/* An exchange orders what was written before it, on every processor. */
	__sync_lock_test_and_set(&s->count, 1);
}
