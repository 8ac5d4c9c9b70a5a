package witness

// The programs are compiled by the clang of Debian that `make generate` installs; the objects and their Go mirror are committed, so that
// nothing but a change to bpf/ needs a compiler. The generator is the one of the library that loads what it makes.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror" -type flow_key -type sighting -type flow_state tap bpf/tap.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror" drop bpf/drop.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror" dropPlain bpf/dropplain.c
