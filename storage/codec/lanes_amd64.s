//go:build !purego

#include "textflag.h"

// Register use. X0 is what SHA256RNDS2 takes by itself: the words plus constants of two rounds; both lanes
// take turns with it, and the CPU's renaming keeps them apart.
//
//	lane a: X1 X2 the state, X3-X6 sixteen words of the message schedule
//	lane b: X7 X8 the state, X9-X12 likewise
//	X13 scratch, X14 the byte order of a block's words
#define K R8

// ROUNDS does four rounds with four words. FEBA and HGDC have changed places after two rounds, and are back
// after four.
#define ROUNDS(g, FEBA, HGDC, w) \
	VPADDD      (g*16)(K), w, X0 \
	SHA256RNDS2 X0, FEBA, HGDC   \
	VPSHUFD     $0x0e, X0, X0    \
	SHA256RNDS2 X0, HGDC, FEBA

// EXTEND replaces w0, the oldest four words of the schedule, by the next four.
#define EXTEND(w0, w1, w2, w3) \
	VPALIGNR   $4, w2, w3, X13 \
	SHA256MSG1 w1, w0          \
	VPADDD     X13, w0, w0     \
	SHA256MSG2 w3, w0

// LOAD reads four words of a block.
#define LOAD(i, from, w) \
	VMOVDQU (i*16)(from), w \
	VPSHUFB X14, w, w

// FIRST are four rounds with words of the block itself, in both lanes.
#define FIRST(g, wa, wb) \
	LOAD(g, SI, wa)       \
	LOAD(g, DX, wb)       \
	ROUNDS(g, X1, X2, wa) \
	ROUNDS(g, X7, X8, wb)

// NEXT are four rounds with words made from those before.
#define NEXT(g, a0, a1, a2, a3, b0, b1, b2, b3) \
	EXTEND(a0, a1, a2, a3) \
	EXTEND(b0, b1, b2, b3) \
	ROUNDS(g, X1, X2, a0)  \
	ROUNDS(g, X7, X8, b0)

// NEXT4 are sixteen rounds, after which every word is in the register where it was.
#define NEXT4(g) \
	NEXT(g, X3, X4, X5, X6, X9, X10, X11, X12)     \
	NEXT((g+1), X4, X5, X6, X3, X10, X11, X12, X9) \
	NEXT((g+2), X5, X6, X3, X4, X11, X12, X9, X10) \
	NEXT((g+3), X6, X3, X4, X5, X12, X9, X10, X11)

// ADD adds the state before the block, which is in memory, and keeps the sum there.
#define ADD(i, x) \
	VPADDD  (i*16)(DI), x, x \
	VMOVDQU x, (i*16)(DI)

DATA order<>+0(SB)/8, $0x0405060700010203
DATA order<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL order<>(SB), RODATA|NOPTR, $16

// func blocks(s *[2]state, k *[64]uint32, a, b *byte, n int)
TEXT ·blocks(SB), NOSPLIT, $0-40
	MOVQ s+0(FP), DI
	MOVQ k+8(FP), K
	MOVQ a+16(FP), SI
	MOVQ b+24(FP), DX
	MOVQ n+32(FP), CX
	VZEROUPPER                // what the SHA instructions, which are no VEX ones, would wait for on Intel's
	VMOVDQU order<>(SB), X14
	VMOVDQU 0(DI), X1
	VMOVDQU 16(DI), X2
	VMOVDQU 32(DI), X7
	VMOVDQU 48(DI), X8

block:
	FIRST(0, X3, X9)
	FIRST(1, X4, X10)
	FIRST(2, X5, X11)
	FIRST(3, X6, X12)
	NEXT4(4)
	NEXT4(8)
	NEXT4(12)
	ADD(0, X1)
	ADD(1, X2)
	ADD(2, X7)
	ADD(3, X8)
	ADDQ $64, SI
	ADDQ $64, DX
	DECQ CX
	JNZ  block
	RET

// func hasSHA() bool
TEXT ·hasSHA(SB), NOSPLIT, $0-1
	MOVL $7, AX
	XORL CX, CX
	CPUID
	SHRL $29, BX
	ANDL $1, BX
	MOVB BX, ret+0(FP)
	RET
