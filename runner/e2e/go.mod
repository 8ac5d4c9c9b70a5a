module github.com/gapproof/gapproof/runner/e2e

go 1.26.0

replace github.com/gapproof/gapproof => ../..

require github.com/gapproof/gapproof v0.0.0-00010101000000-000000000000

require (
	k8s.io/api v0.37.2 // indirect
	k8s.io/apimachinery v0.37.2 // indirect
	k8s.io/client-go v0.37.2 // indirect
	sigs.k8s.io/e2e-framework v0.7.0 // indirect
)
