package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/seal"
)

// statementOptions are the flags that have a proof signed.
type statementOptions struct {
	file string
	keys []string
}

func (o *statementOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.file, "statement", "", "write the proof of the seal, whatever its verdict, as a signed statement into this file; needs --key")
	c.Flags().StringArrayVar(&o.keys, "key", nil, "private key that signs the statement; may be given several times")
}

// signer is what a statement is written with.
type signer struct {
	file string
	keys []*signed.PrivateKey
}

// signer reads the keys before anything is done that would be lost without them; nil when no statement is asked for.
func (a *app) signer(o statementOptions) (*signer, error) {
	if o.file == "" && len(o.keys) == 0 {
		return nil, nil
	}
	if o.file == "" || len(o.keys) == 0 {
		return nil, hinted{usageError{errors.New("--statement and --key: each needs the other")}, "gapproof bundle key makes a key"}
	}
	dir := filepath.Dir(o.file)
	if is, err := os.Stat(dir); err != nil {
		return nil, usageError{fmt.Errorf("--statement: %w", err)}
	} else if !is.IsDir() {
		return nil, usageError{fmt.Errorf("--statement: %s is no directory", dir)}
	}
	keys, err := a.privateKeys(o.keys)
	if err != nil {
		return nil, err
	}
	return &signer{o.file, keys}, nil
}

// checkLock refuses a cluster of which it is not known what a statement would be about.
func (s *signer) checkLock(c *cluster.Cluster) error {
	if s != nil && c.LockSHA256 == "" {
		return hinted{usageError{fmt.Errorf("--statement: cluster %s was brought up by a gapproof that did not record the digest of its lock", c.Name)},
			"gapproof up --sealed --replace --cluster " + c.Name}
	}
	return nil
}

// write signs the proof; nil writes nothing. run and evidence, the manifest's digest, are empty for a proof that stands alone.
func (s *signer) write(log io.Writer, r *sealReport, run, evidence string) error {
	if s == nil {
		return nil
	}
	statement, err := r.Proof.Statement(r.Spec, seal.About{Lock: r.lock, Evidence: evidence, Run: run, Time: r.Time, Version: r.Version})
	if err != nil {
		return err
	}
	raw, err := statement.Encode()
	if err != nil {
		return err
	}
	envelope, err := signed.Sign(raw, s.keys)
	if err != nil {
		return err
	}
	if err := writeFile(s.file, func(w io.Writer) error { _, err := w.Write(envelope); return err }); err != nil {
		return fmt.Errorf("writing the statement: %w", err)
	}
	fmt.Fprintf(log, "statement of %s written to %s, signatures: %d\n", r.Verdict, s.file, len(s.keys))
	return nil
}

// sealExit is how a command ends that tells a verdict.
func sealExit(v seal.Verdict) error {
	switch v {
	case seal.Sealed:
		return nil
	case seal.Leaked:
		return exitError(exitFail)
	}
	return exitError(exitInconclusive)
}

// sealVerifyOptions are the flags of seal verify.
type sealVerifyOptions struct {
	trustOptions
	subjects []string
	output   string
}

func (a *app) sealVerify() *cobra.Command {
	var o sealVerifyOptions
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a signed statement of a seal, without a cluster",
		Long: `verify holds the signatures against the keys or the trust policy, judges the statement's facts again, and prints its verdict and what it is
about: the lock.json of the lab, and of a run with --evidence the manifest.json of its evidence. --subject names a file that it must be
about. It asks nobody, and needs no root.

Exit codes: 0 SEALED, 1 LEAKED or refused (a signature, a subject or the statement is not good), 2 usage, 3 SEAL_NOT_PROVEN, 4 a file could
not be read.`,
		Example: `  gapproof seal verify seal.dsse.json --key release.pub
  gapproof seal verify seal.dsse.json --trust policy.yaml --subject lab/lock.json --subject evidence/manifest.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.verifySeal(args[0], o) },
	}
	o.signedFlags(c)
	c.Flags().StringArrayVar(&o.subjects, "subject", nil, "file that the statement must be about, by its digest; may be given several times")
	c.Flags().StringVarP(&o.output, "output", "o", "table", "table, or json: the statement itself")
	return c
}

func (a *app) verifySeal(path string, o sealVerifyOptions) error {
	if !slices.Contains([]string{"table", "json"}, o.output) {
		return hinted{usageError{fmt.Errorf("--output: %q is not one of table, json", o.output)}, "gapproof seal verify --help"}
	}
	trust, err := o.signedTrust()
	if err != nil {
		return err
	}
	sums, err := subjectSums(o.subjects)
	if err != nil {
		return err
	}
	raw, err := readStatement(path)
	if err != nil {
		return err
	}
	payload, signers, err := signed.Open(raw, trust, time.Now())
	if err != nil {
		return statementError(err)
	}
	st, err := seal.ParseStatement(payload)
	if err != nil {
		return statementError(err)
	}
	for i, sum := range sums {
		if !slices.ContainsFunc(st.Subject, func(s seal.Subject) bool { return s.Digest["sha256"] == sum }) {
			return refused{fmt.Errorf("REFUSED: the statement is not about %s, whose digest is sha256:%s", o.subjects[i], sum)}
		}
	}
	if o.output == "json" {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		err = e.Encode(st)
	} else {
		err = writeVerified(a.out, st, signers)
	}
	if err != nil {
		return fmt.Errorf("printing the statement: %w", err)
	}
	return sealExit(st.Predicate.Verdict)
}

// subjectSums are the digests of the named files.
func subjectSums(paths []string) ([]string, error) {
	var sums []string
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError{fmt.Errorf("--subject: %w", err)}
		}
		sum := sha256.Sum256(raw)
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	return sums, nil
}

// readStatement reads a file of no more than an envelope may have, and one byte, so that a larger one is known to be too large.
func readStatement(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("opening the statement: %w", err)}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, signed.MaxStatement+1))
	if err != nil {
		return nil, fmt.Errorf("reading the statement: %w", err)
	}
	return raw, nil
}

// statementError makes a statement that must not be believed a promise that did not hold, as with bundles.
func statementError(err error) error {
	for _, is := range []error{signed.ErrEnvelope, signed.ErrUnsigned, signed.ErrSignature, signed.ErrThreshold, seal.ErrStatement} {
		if errors.Is(err, is) {
			return refused{fmt.Errorf("REFUSED: %w", err)}
		}
	}
	return err
}

// writeVerified renders a statement that was verified: who says what of which lab and run, and then the proof as seal check prints it.
func writeVerified(out io.Writer, st *seal.Statement, signers []string) error {
	p := st.Predicate
	r := sealReport{Cluster: p.Spec.Cluster, Time: p.Time, Version: p.Version, Spec: p.Spec, Tried: p.Tried, Proof: p.Proof}
	if err := writeSeal(out, r); err != nil {
		return err
	}
	by := strings.Join(signers, " and ")
	run := ""
	if p.Run != "" {
		run = ", after run " + p.Run
	}
	fmt.Fprintf(out, "\nVERIFIED: signed by %s, made by gapproof %s on %s%s, about\n", by, p.Version, p.Time.Format(time.RFC3339), run)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range st.Subject {
		fmt.Fprintf(w, "  %s\tsha256:%s\n", s.Name, s.Digest["sha256"])
	}
	return w.Flush()
}

func (a *app) sealSign() *cobra.Command {
	var keys []string
	var out string
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add signatures to a statement of a seal",
		Long: `sign judges the statement's facts again and writes it with one more signature per --key, so that several people can sign one after the
other. What is signed does not change, and the signatures that it has are not verified: see gapproof seal verify.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return hinted{usageError{errors.New("--key: is required")}, "gapproof bundle key"}
			}
			private, err := a.privateKeys(keys)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0]
			}
			raw, err := readStatement(args[0])
			if err != nil {
				return err
			}
			envelope, payload, err := signed.Countersign(raw, private)
			if err != nil {
				return statementError(err)
			}
			st, err := seal.ParseStatement(payload)
			if err != nil {
				return statementError(err)
			}
			if err := writeFile(out, func(w io.Writer) error { _, err := w.Write(envelope); return err }); err != nil {
				return fmt.Errorf("writing the statement: %w", err)
			}
			fmt.Fprintf(a.err, "statement of %s signed by %d more in %s\n", st.Predicate.Verdict, len(private), out)
			return nil
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "private key; may be given several times")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write (default: the statement itself, replaced in one step)")
	return c
}
