package kernelnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's interface that golang.org/x/sys/unix does not carry.
const (
	vxlanID = 1 // IFLA_VXLAN_ID, include/uapi/linux/if_link.h

	subsystemIPSet = 6 // NFNL_SUBSYS_IPSET, include/uapi/linux/netfilter/nfnetlink.h
	ipsetCreate    = 2 // IPSET_CMD_CREATE, include/uapi/linux/netfilter/ipset/ip_set.h
	ipsetProtocol  = 1 // IPSET_ATTR_PROTOCOL
	ipsetSetName   = 2 // IPSET_ATTR_SETNAME
	ipsetTypeName  = 3 // IPSET_ATTR_TYPENAME
	ipsetRevision  = 4 // IPSET_ATTR_REVISION
	ipsetFamily    = 5 // IPSET_ATTR_FAMILY
	ipsetData      = 7 // IPSET_ATTR_DATA
	// ipsetVersion is the oldest protocol that every kernel of this century's containers speaks.
	ipsetVersion = 6

	nfTableName = 1 // NFTA_TABLE_NAME, include/uapi/linux/netfilter/nf_tables.h
)

// answerLimit bounds the wait for the kernel's answer. It answers within the send itself, unless a module has to be loaded first.
const answerLimit = 10 * time.Second

// attribute is one netlink attribute; nested ones carry encoded attributes as their value.
// https://docs.kernel.org/userspace-api/netlink/intro.html#netlink-attributes
type attribute struct {
	kind  uint16
	value []byte
}

func stringAttribute(kind uint16, text string) attribute {
	return attribute{kind, append([]byte(text), 0)}
}

func byteAttribute(kind uint16, value byte) attribute { return attribute{kind, []byte{value}} }

func uint32Attribute(kind uint16, value uint32) attribute {
	return attribute{kind, binary.NativeEndian.AppendUint32(nil, value)}
}

func nestedAttribute(kind uint16, inner ...attribute) attribute {
	return attribute{kind | unix.NLA_F_NESTED, encodeAttributes(inner)}
}

// encodeAttributes lays attributes out one after the other, each padded to four bytes.
func encodeAttributes(attributes []attribute) []byte {
	var text []byte
	for _, attribute := range attributes {
		text = binary.NativeEndian.AppendUint16(text, uint16(unix.SizeofNlAttr+len(attribute.value)))
		text = binary.NativeEndian.AppendUint16(text, attribute.kind)
		text = append(text, attribute.value...)
		text = append(text, make([]byte, padding(len(text)))...)
	}
	return text
}

func padding(length int) int { return -length & (unix.NLMSG_ALIGNTO - 1) }

// encodeMessage puts the netlink header before a body.
func encodeMessage(kind, flags uint16, sequence uint32, body []byte) []byte {
	text := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	text = binary.NativeEndian.AppendUint16(text, kind)
	text = binary.NativeEndian.AppendUint16(text, flags)
	text = binary.NativeEndian.AppendUint32(text, sequence)
	text = binary.NativeEndian.AppendUint32(text, 0)
	text = append(text, body...)
	return append(text, make([]byte, padding(len(text)))...)
}

// createFlags ask the kernel to make something new and to say whether it did.
const createFlags = unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL

// addLink makes a link of the kind, as ip link add does.
func addLink(name, kind string, data ...attribute) error {
	info := []attribute{stringAttribute(unix.IFLA_INFO_KIND, kind)}
	if len(data) > 0 {
		info = append(info, nestedAttribute(unix.IFLA_INFO_DATA, data...))
	}
	body := append(make([]byte, unix.SizeofIfInfomsg), encodeAttributes([]attribute{
		stringAttribute(unix.IFLA_IFNAME, name),
		nestedAttribute(unix.IFLA_LINKINFO, info...),
	})...)
	message := encodeMessage(unix.RTM_NEWLINK, createFlags, 1, body)
	if err := exchange(unix.NETLINK_ROUTE, message, 1); err != nil {
		return fmt.Errorf("adding a %s link: %w", kind, err)
	}
	return nil
}

// addSet makes an IP set of type hash:net, as ipset create does.
func addSet(name string) error {
	body := append(netfilterHeader(unix.AF_INET, 0), encodeAttributes([]attribute{
		byteAttribute(ipsetProtocol, ipsetVersion),
		stringAttribute(ipsetSetName, name),
		stringAttribute(ipsetTypeName, "hash:net"),
		byteAttribute(ipsetRevision, 0),
		byteAttribute(ipsetFamily, unix.AF_INET),
		nestedAttribute(ipsetData),
	})...)
	message := encodeMessage(subsystemIPSet<<8|ipsetCreate, createFlags, 1, body)
	if err := exchange(unix.NETLINK_NETFILTER, message, 1); err != nil {
		return fmt.Errorf("creating a hash:net set: %w", err)
	}
	return nil
}

// addTable makes an nftables table, which only a batch may do.
func addTable(name string) error {
	batch := netfilterHeader(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	table := append(netfilterHeader(unix.NFPROTO_INET, 0), encodeAttributes([]attribute{stringAttribute(nfTableName, name)})...)
	messages := bytes.Join([][]byte{
		encodeMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 1, batch),
		encodeMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, createFlags, 2, table),
		encodeMessage(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 3, batch),
	}, nil)
	if err := exchange(unix.NETLINK_NETFILTER, messages, 2); err != nil {
		return fmt.Errorf("adding an nftables table: %w", err)
	}
	return nil
}

// netfilterHeader is struct nfgenmsg: family, version 0, resource in network order.
func netfilterHeader(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, 0}, resource)
}

// exchange sends messages to the kernel and waits for its answer to the one with the sequence number. A refused batch is answered
// under the number of its begin, so any error counts.
func exchange(protocol int, messages []byte, sequence uint32) (err error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(socket)) }()
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("limiting the wait on a netlink socket: %w", err)
	}
	if err := unix.Sendto(socket, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("sending a netlink message: %w", err)
	}
	// One answer fits a page; acknowledgements repeat at most the message they answer.
	buffer := make([]byte, os.Getpagesize())
	for {
		length, _, err := unix.Recvfrom(socket, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the kernel's answer: %w", err)
		}
		answered, err := readAnswer(buffer[:length], sequence)
		if err != nil || answered {
			return err
		}
	}
}

// errShortAnswer reports bytes from a netlink socket that are no message.
var errShortAnswer = errors.New("answer is shorter than it says")

// readAnswer looks for an error, or for the acknowledgement of the message with the sequence number.
func readAnswer(text []byte, sequence uint32) (answered bool, err error) {
	for len(text) > 0 {
		if len(text) < unix.SizeofNlMsghdr {
			return false, errShortAnswer
		}
		length := int(binary.NativeEndian.Uint32(text))
		if length < unix.SizeofNlMsghdr || length > len(text) {
			return false, errShortAnswer
		}
		kind := binary.NativeEndian.Uint16(text[4:])
		number := binary.NativeEndian.Uint32(text[8:])
		if kind == unix.NLMSG_ERROR {
			if length < unix.SizeofNlMsghdr+4 {
				return false, errShortAnswer
			}
			if code := int32(binary.NativeEndian.Uint32(text[unix.SizeofNlMsghdr:])); code != 0 {
				return false, unix.Errno(-code)
			}
			answered = answered || number == sequence
		}
		text = text[min(length+padding(length), len(text)):]
	}
	return answered, nil
}
