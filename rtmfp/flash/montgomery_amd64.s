#include "textflag.h"

// func montgomeryMultiply(t, a, b, p *uint64, n uint64) (carry uint64)
//
// For each of the n words of b: t += a*word; t += p*t[0], which makes t[0] zero; t moves up by one word. ADCX and ADOX keep two
// chains of carries. n is a multiple of 8.
//
// DI t, R12 b, R13 words of b left, R11 carry out of t; within a row: SI factor, BX t, CX blocks of eight words left, DX the word,
// R9 and R10 the high halves of products, AX carry of the first half of the row.
TEXT ·montgomeryMultiply(SB), NOSPLIT, $0-48
	MOVQ t+0(FP), DI
	MOVQ b+16(FP), R12
	MOVQ n+32(FP), R13
	XORQ R11, R11

row:
	MOVQ (R12), DX
	MOVQ a+8(FP), SI
	MOVQ DI, BX
	MOVQ n+32(FP), CX
	SHRQ $3, CX
	XORQ R9, R9       // and both carries

product:
	MULXQ (SI), R8, R10
	ADCXQ R9, R8
	ADOXQ (BX), R8
	MOVQ  R8, (BX)
	MULXQ 8(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 8(BX), R8
	MOVQ  R8, 8(BX)
	MULXQ 16(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 16(BX), R8
	MOVQ  R8, 16(BX)
	MULXQ 24(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 24(BX), R8
	MOVQ  R8, 24(BX)
	MULXQ 32(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 32(BX), R8
	MOVQ  R8, 32(BX)
	MULXQ 40(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 40(BX), R8
	MOVQ  R8, 40(BX)
	MULXQ 48(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 48(BX), R8
	MOVQ  R8, 48(BX)
	MULXQ 56(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 56(BX), R8
	MOVQ  R8, 56(BX)
	LEAQ  64(SI), SI
	LEAQ  64(BX), BX
	LEAQ  -1(CX), CX
	JCXZQ produced
	JMP   product

produced:
	MOVQ  $0, AX
	ADCXQ AX, R9
	ADOXQ AX, R9
	MOVQ  R9, AX
	MOVQ  (DI), DX
	MOVQ  p+24(FP), SI
	MOVQ  DI, BX
	MOVQ  n+32(FP), CX
	SHRQ  $3, CX
	XORQ  R9, R9

reduction:
	MULXQ (SI), R8, R10
	ADCXQ R9, R8
	ADOXQ (BX), R8
	MOVQ  R8, (BX)
	MULXQ 8(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 8(BX), R8
	MOVQ  R8, 8(BX)
	MULXQ 16(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 16(BX), R8
	MOVQ  R8, 16(BX)
	MULXQ 24(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 24(BX), R8
	MOVQ  R8, 24(BX)
	MULXQ 32(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 32(BX), R8
	MOVQ  R8, 32(BX)
	MULXQ 40(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 40(BX), R8
	MOVQ  R8, 40(BX)
	MULXQ 48(SI), R8, R10
	ADCXQ R9, R8
	ADOXQ 48(BX), R8
	MOVQ  R8, 48(BX)
	MULXQ 56(SI), R8, R9
	ADCXQ R10, R8
	ADOXQ 56(BX), R8
	MOVQ  R8, 56(BX)
	LEAQ  64(SI), SI
	LEAQ  64(BX), BX
	LEAQ  -1(CX), CX
	JCXZQ reduced
	JMP   reduction

reduced:
	MOVQ  $0, R10
	ADCXQ R10, R9
	ADOXQ R10, R9
	XORQ  R10, R10
	ADDQ  R11, AX
	ADCQ  $0, R10
	ADDQ  R9, AX
	ADCQ  $0, R10
	MOVQ  AX, (BX)
	MOVQ  R10, R11
	LEAQ  8(DI), DI
	LEAQ  8(R12), R12
	DECQ  R13
	JNZ   row
	MOVQ  R11, carry+40(FP)
	RET
