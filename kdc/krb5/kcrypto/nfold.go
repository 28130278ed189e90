package kcrypto

// nfold stretches or folds in to n octets (RFC 3961 section 5.1): copies of in, each rotated right by 13 bits more than the one
// before, are added in n-octet pieces with end-around carry. in must not be empty.
func nfold(in []byte, n int) []byte {
	out := make([]byte, n)
	total := lcm(len(in), n)
	bits := len(in) * 8
	carry := 0
	for i := total - 1; i >= 0; i-- {
		// The bit at which octet i of the concatenation starts, inside copy number i/len(in).
		start := ((i%len(in))*8 - 13*(i/len(in))%bits + bits) % bits
		hi, lo := int(in[start/8]), int(in[(start/8+1)%len(in)])
		octet := (hi<<8 | lo) >> (8 - start%8) & 0xff
		carry += int(out[i%n]) + octet
		out[i%n] = byte(carry)
		carry >>= 8
	}
	for i := n - 1; carry != 0; i = (i - 1 + n) % n {
		carry += int(out[i])
		out[i] = byte(carry)
		carry >>= 8
	}
	return out
}

func lcm(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}
